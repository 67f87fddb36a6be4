# What stands on every page: the frame, notices, and the words that several pages share.

brand = Entrybook
page-title = { $title } · { brand }
skip-to-content = Skip to the content
nav-label = Main
nav-overview = Overview
nav-sessions = My sessions
nav-my-history = My history
nav-history = History
nav-replay = Replay
nav-users = Users
nav-projections = Projections
nav-sign-in = Sign in
nav-register = Register
signed-in-as = Signed in as { $name }
sign-out = Sign out
footer = Every sign-in and every change is written in the book.
footer-request = Request { $id }

cancel = Cancel
optional = optional
older = Older
newer = Newer
next-page = Next page
first-page = First page
pages-label = Pages

role-user = User
role-auditor = Auditor
role-admin = Admin

time-minute = { $day } { $month } { $year }, { $clock } UTC
time-second = { $day } { $month } { $year }, { $clock }
month = { $count ->
    [1] Jan
    [2] Feb
    [3] Mar
    [4] Apr
    [5] May
    [6] June
    [7] July
    [8] Aug
    [9] Sept
    [10] Oct
    [11] Nov
   *[12] Dec
}
wait-seconds = { $count ->
    [one] one second
   *[other] { $number } seconds
}
wait-minutes = { $count ->
    [one] one minute
   *[other] { $number } minutes
}
wait-hours = { $count ->
    [one] one hour
   *[other] { $number } hours
}
seconds-short = { $number } s
minutes-short = { $number } min
hours-short = { $number } h

device-both = { $browser } on { $system }
device-unknown = Unknown device
address-unknown = Unknown address

person-unnamed = Person { $id }
person-erased = Erased person { $id }
actor-anonymous = Not signed in
actor-system = Entrybook
actor-unknown = Not known to this version
actor-cli = Command line ({ $name })

notice-signed-out = You are signed out.
notice-sign-in-first = Please sign in to go on.
notice-registered = Your account is ready, and you are signed in.
notice-password-changed = Your password is changed, and your other sessions are ended.
notice-profile-changed = Your profile is changed.
notice-session-ended = The session is ended.
notice-other-sessions-ended = All your other sessions are ended.
notice-user-disabled = The account is disabled, and its sessions are ended.
notice-user-enabled = The account is enabled again.
notice-oneself-erased = Your account is erased, and nothing of yours can be read any more.
notice-role-granted = The role is granted.
notice-role-revoked = The role is revoked.
notice-nothing-changed = Nothing was changed: it was so already.
notice-session-unknown = There is no such session of yours, or it had already ended.
notice-user-unknown = There is no such account.
notice-not-yourself = You cannot do that to your own account; ask another admin.
notice-last-admin = Nothing was changed: one admin must remain.
notice-rebuild-begun = The rebuild has begun. What serves goes on serving until the new tables take its place.
notice-check-begun = The check has begun. It changes nothing.
notice-build-cancelled = It is told to stop. What serves is as it was.
notice-build-under-way = It is being built or checked already. Nothing was begun.
notice-no-build = Nothing was under way any more, so there was nothing to cancel.
notice-form-expired = That form was too old. Nothing was changed; please try again.
notice-unavailable = That did not work just now, and nothing was changed. Please try again in a moment.
