# The admin's page of projections.

projections-title = Projections
projections-lead = What people read is posted from the book, and can be thrown away and posted again. A rebuild makes new tables beside those that serve, compares them, and puts them in place; nobody has to wait for it.
projections-head = The book has { $lines } lines.
projections-list = Projections
projections-version = Version
projections-position = Position
projections-lag = Behind
projections-level = Level with the book
projections-events-behind = { $count ->
    [one] one event
   *[other] { $number } events
}
projections-behind = { $events }, for { $age }
projections-none = No projection is registered.
projection-live = Live
projection-missing = Not made
projection-building = Building
projection-stopped = Stopped

projections-rebuild = Rebuild
projections-rebuild-named = Rebuild { $name }
projections-rebuild-all = Rebuild all
projections-check = Check
projections-check-named = Check { $name }
projections-check-all = Check all
projections-cancel-named = Cancel what runs on { $name }
projections-repair = Repair …
projections-repair-named = Repair { $name } …
projections-repair-hint = Builds the tables anew and puts them in place of those that serve, although they differ: then what people see agrees with the book. Keep what is said above if you want to find out how it came to differ.
projections-repair-now = Repair { $name } now
projections-progress-of = Progress of { $name }
projections-first-build = It is being built for the first time. What is read from it is shown when it is complete; signing in goes on meanwhile.

projections-stopped-at = It waits at line { $line }, which it cannot apply.
projections-stopped-alone = Nothing is skipped; signing in and the other projections go on.
projections-stream = Stream
projections-event = Event
projections-cause = Cause
projections-advice = What to do

build-is-first = Building:
build-is-rebuild = Rebuilding:
build-is-check = Checking:
build-folding = reading the book
build-copying = writing the new tables
build-indexing = making the indexes
build-catching-up = catching up with the newest lines
build-comparing = comparing new and old
build-swapping = putting the new tables in place
build-done-of = { $done } of { $total } events
build-speed = { $count ->
    [one] one event a second
   *[other] { $number } events a second
}
build-left = about { $time } left
build-so-far = { $time } so far

build-moment = less than a second
build-built = Built for the first time { $at }, in { $took }.
build-swapped = Rebuilt { $at }, in { $took }.
build-compared = Checked { $at }, in { $took }: it agrees with the book.
build-differs = Checked { $at }: it does not agree with the book. Nothing was changed.
build-failed = The rebuild of { $at } failed. What serves is as it was.
build-check-failed = The check of { $at } failed.
build-cancelled = The rebuild of { $at } was cancelled. What serves is as it was; the next one goes on from there.
build-check-cancelled = The check of { $at } was cancelled.
build-interrupted = The rebuild of { $at } was broken off, because the process that ran it is gone. What serves is as it was; the next one goes on from there.
build-check-interrupted = The check of { $at } was broken off, because the process that ran it is gone.
