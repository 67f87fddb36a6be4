-- What is left of a destroyed key. Its row is dead at once, and stays in the table's file until VACUUM; so that it is
-- neither in a copy of the files that is made a while later nor for ever where few people come and go, autovacuum comes
-- for each one, at its next round. Keys are read by their id and seldom change, so there is little for it to do.
ALTER TABLE sealing_keys SET (
    autovacuum_vacuum_threshold = 0,
    autovacuum_vacuum_scale_factor = 0
);

-- Which master keys wrap the keys: asked at each start, of however many.
CREATE INDEX IF NOT EXISTS sealing_keys_master_key ON sealing_keys (master_key COLLATE "C");
