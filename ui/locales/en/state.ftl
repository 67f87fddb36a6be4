# Replay: a person at any moment, and who was signed in.

state-title = Replay
state-lead = A person at any moment of the past, folded from the book. Without a person: who was signed in. Times are in UTC.
state-form = Moment
state-user = Person
state-user-hint = E-mail or username, also a former one, or id
state-at = At (UTC)
state-at-hint = 2026-01-31 18:30, or a line such as 4711; now, if empty
state-against = Compare with
state-against-hint = Another moment, if you like
state-show = Show
state-clear = Start over

state-holders = Accounts that held it
state-held-until = from line { $from } to line { $to }
state-held-since = since line { $from }

state-moment = { $name } at { $time }
state-line = Line { $line } of { $head }
state-step = Step along
state-previous = Event before
state-next = Event after
state-first = First event
state-now = Now
state-slider = Any line
state-go = Go there

state-account = Account
state-not-registered = Not registered yet.
state-condition = State
state-active = Active
state-is-disabled = Disabled
state-is-erased = Erased
state-events = Events so far
state-unreadable = can’t be read any more
state-none = none

state-live = Live sessions
state-sessions = { $count ->
    [0] No session was live.
    [one] One session was live.
   *[other] { $number } sessions were live.
}
state-sessions-shown = The last { $number } are shown.

state-changes = What differs
state-changes-lead = From { $time } to the moment above.
state-no-changes = Nothing differs.
state-what = What
state-before = Before
state-after = After
state-yes = Yes
state-registered = Registered
state-email = E-mail
state-username = Username
state-full-name = Name
state-role = Role
state-disabled = Disabled
state-erased = Erased
state-session = Session

state-timeline = Events around it
state-here = Here
state-compare = Compare
state-compare-line = Compare with line { $line }
state-all-events = All events of this person

state-signed-in = Signed in at { $time }
state-people = { $count ->
    [0] Nobody was signed in.
    [one] One person.
   *[other] { $number } people.
}
state-people-more = The first { $number } people.
state-then = Their state then
