// Checks an export of Entrybook with Go's own transparency log (golang.org/x/mod/sumdb/tlog and note), and shares nothing
// with Entrybook but the documentation.
//
//	check EXPORT KEY OLDER-CHECKPOINT PROOF
//
// EXPORT is JSON Lines without a filter, KEY a verifier key, OLDER-CHECKPOINT a signed note of a smaller tree, and PROOF a
// tlog-proof of one line.
package main

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io/ioutil"
	"os"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

func fail(format string, arguments ...interface{}) {
	fmt.Fprintf(os.Stderr, format+"\n", arguments...)
	os.Exit(1)
}

func must(err error, what string) {
	if err != nil {
		fail("%s: %v", what, err)
	}
}

type control struct {
	Export *struct {
		V      int
		Origin string
	}
	Run *struct {
		First  int64
		Hashes string
	}
	End *struct {
		Manifest   string
		Checkpoint string
	}
}

// A checkpoint as C2SP tlog-checkpoint has it.
type checkpoint struct {
	origin string
	size   int64
	root   tlog.Hash
}

func open(text string, verifiers note.Verifiers) string {
	opened, err := note.Open([]byte(text), verifiers)
	must(err, "the signature of a note")
	return opened.Text
}

func readCheckpoint(text string, verifiers note.Verifiers) checkpoint {
	lines := strings.Split(open(text, verifiers), "\n")
	if len(lines) < 3 {
		fail("a checkpoint has %d lines", len(lines))
	}
	size, err := strconv.ParseInt(lines[1], 10, 64)
	must(err, "the size of a checkpoint")
	root, err := tlog.ParseHash(lines[2])
	must(err, "the root of a checkpoint")
	return checkpoint{lines[0], size, root}
}

func main() {
	if len(os.Args) != 5 {
		fail("usage: check EXPORT KEY OLDER-CHECKPOINT PROOF")
	}
	verifier, err := note.NewVerifier(os.Args[2])
	must(err, "the key")
	verifiers := note.VerifierList(verifier)

	// The leaves, and the storage that Go keeps of a tree.
	var stored []tlog.Hash
	reader := tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		hashes := make([]tlog.Hash, len(indexes))
		for i, index := range indexes {
			if index >= int64(len(stored)) {
				return nil, fmt.Errorf("no hash %d", index)
			}
			hashes[i] = stored[index]
		}
		return hashes, nil
	})
	file, err := os.Open(os.Args[1])
	must(err, "the export")
	lines := bufio.NewReaderSize(file, 1<<20)
	digest := sha256.New()
	var leaves, expected []tlog.Hash
	var signed checkpoint
	ended := false
	for {
		line, err := lines.ReadBytes('\n')
		if len(line) == 0 {
			break
		}
		must(err, "a line of the export")
		text := line[:len(line)-1]
		if bytes.HasPrefix(text, []byte(`{"event_type":`)) {
			digest.Write(line)
			n := int64(len(leaves))
			hash := tlog.RecordHash(text)
			added, err := tlog.StoredHashes(n, text, reader)
			must(err, "a leaf")
			stored = append(stored, added...)
			leaves = append(leaves, hash)
			continue
		}
		var control control
		must(json.Unmarshal(text, &control), "a line of the export")
		switch {
		case control.Run != nil:
			bytes, err := base64.StdEncoding.DecodeString(control.Run.Hashes)
			must(err, "the hashes of a run")
			for ; len(bytes) >= tlog.HashSize; bytes = bytes[tlog.HashSize:] {
				var hash tlog.Hash
				copy(hash[:], bytes)
				expected = append(expected, hash)
			}
		case control.End != nil:
			ended = true
			signed = readCheckpoint(control.End.Checkpoint, verifiers)
			manifest := strings.Split(open(control.End.Manifest, verifiers), "\n")
			want := []string{
				"entrybook export v1", signed.origin, fmt.Sprint(signed.size), fmt.Sprint(len(leaves)),
				signed.root.String(), base64.StdEncoding.EncodeToString(digest.Sum(nil)), "",
			}
			if strings.Join(manifest, "\n") != strings.Join(want, "\n") {
				fail("the manifest says %q, and it should be %q", manifest, want)
			}
		case control.Export == nil:
			fail("a line that is none of an export without a filter: %s", text)
		}
		digest.Write(line)
	}
	if !ended {
		fail("the export has no end")
	}
	if len(expected) != len(leaves) {
		fail("%d hashes stand before %d lines", len(expected), len(leaves))
	}
	for i, hash := range leaves {
		if hash != expected[i] {
			fail("line %d has another hash", i+1)
		}
	}

	// The root.
	size := int64(len(leaves))
	root, err := tlog.TreeHash(size, reader)
	must(err, "the root")
	if size != signed.size || root != signed.root {
		fail("%d lines have the root %v; of %d lines %v was signed", size, root, signed.size, signed.root)
	}
	fmt.Printf("root of %d lines: as it was signed by %s\n", size, verifier.Name())

	// Every line is in the tree, by a proof of Go's own.
	for n := int64(0); n < size; n++ {
		proof, err := tlog.ProveRecord(size, n, reader)
		must(err, "a proof of inclusion")
		must(tlog.CheckRecord(proof, size, root, n, leaves[n]), "a proof of inclusion")
	}
	fmt.Printf("inclusion of %d lines: proved\n", size)

	// One line, by the proof that the server gave.
	given, err := ioutil.ReadFile(os.Args[4])
	must(err, "the proof")
	parts := strings.SplitN(string(given), "\n\n", 2)
	words := strings.Split(parts[0], "\n")
	if len(parts) != 2 || words[0] != "c2sp.org/tlog-proof@v1" || !strings.HasPrefix(words[1], "index ") {
		fail("the proof is no tlog-proof@v1: %q", given)
	}
	index, err := strconv.ParseInt(strings.TrimPrefix(words[1], "index "), 10, 64)
	must(err, "the index of the proof")
	var path tlog.RecordProof
	for _, word := range words[2:] {
		hash, err := tlog.ParseHash(word)
		must(err, "a hash of the proof")
		path = append(path, hash)
	}
	proved := readCheckpoint(parts[1], verifiers)
	must(tlog.CheckRecord(path, proved.size, proved.root, index, leaves[index]), "the server's proof of inclusion")
	fmt.Printf("the server's proof of line %d: holds\n", index+1)

	// The book has only grown since the older checkpoint.
	text, err := ioutil.ReadFile(os.Args[3])
	must(err, "the older checkpoint")
	older := readCheckpoint(string(text), verifiers)
	if older.size >= size {
		fail("the older checkpoint is of %d lines, and the export of %d", older.size, size)
	}
	grown, err := tlog.ProveTree(size, older.size, reader)
	must(err, "a proof of consistency")
	must(tlog.CheckTree(grown, size, root, older.size, older.root), "a proof of consistency")
	fmt.Printf("consistency with the checkpoint of %d lines: proved\n", older.size)
}
