-- Codes for one use, by which a browser that is signed in here is let in at an application on a host name of its own
-- (commands/src/hand_over.rs). One lives for a minute, and is deleted when it is used. The code itself is not here, and
-- neither is the code's own authentication, so nobody makes one by writing a row. Unlogged: after a crash people are
-- sent for another one, unseen.
CREATE UNLOGGED TABLE hand_overs (
    hash        bytea PRIMARY KEY CHECK (octet_length(hash) = 32),
    application text  NOT NULL,
    -- The hash of a cookie that the browser has at the application.
    browser     bytea NOT NULL CHECK (octet_length(browser) = 32),
    user_id     uuid  NOT NULL,
    session_id  uuid  NOT NULL,
    made_at     timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX hand_overs_session ON hand_overs (session_id, made_at);
CREATE INDEX hand_overs_made ON hand_overs (made_at);
