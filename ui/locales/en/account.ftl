# Signing in, registering, and a person's own pages.

sign-in-title = Sign in
sign-in-identifier = E-mail or username
sign-in-password = Password
sign-in-remember = Keep me signed in for 30 days
sign-in-submit = Sign in
sign-in-no-account = No account yet?
sign-in-register = Register

register-title = Register
register-email = E-mail
register-username = Username
register-username-hint = 3 to 50 letters and digits; inside it also .{"\u00A0"}_{"\u00A0"}and{"\u00A0"}-
register-full-name = Full name
register-password = Password
register-password-hint = At least 8 characters. Anything you can type counts, spaces too; a few random words are good.
register-submit = Create the account
register-have-account = Already registered?
register-sign-in = Sign in

overview-title = Overview
overview-greeting = Hello, { $name }
overview-account = My account
overview-registered = Registered
overview-roles = Roles
overview-full-name = Full name
overview-no-full-name = Not given
overview-username = Username
overview-email = E-mail
overview-edit-profile = Edit profile
overview-change-password = Change password
overview-sessions = My sessions
overview-all-sessions = { $count ->
    [one] See my only session
   *[other] See all { $number } sessions
}
overview-history = What happened lately
overview-all-history = See my whole history
overview-no-history = Nothing is written here yet.
overview-building = This is being put together just now. It will be here in a moment.

sessions-title = My sessions
sessions-lead = Each line is one device that is signed in to your account. If you do not know one, end it and change your password.
sessions-this = This one
sessions-first-seen = Signed in
sessions-last-seen = Last seen
sessions-until = Ends if unused
sessions-address = Address
sessions-end = End session
sessions-end-named = End the session on { $device }, last seen { $time }
sessions-only-this = No other device is signed in.
sessions-end-others = End all other sessions
sessions-end-others-hint = You stay signed in here.

password-title = Change password
password-lead = Your other sessions are ended when you change your password. This one stays.
password-current = Current password
password-new = New password
password-new-hint = At least 8 characters. Anything you can type counts, spaces too; a few random words are good.
password-submit = Change the password

profile-title = Edit profile
profile-full-name = Full name
profile-username = Username
profile-username-hint = 3 to 50 letters and digits; inside it also .{"\u00A0"}_{"\u00A0"}and{"\u00A0"}-
profile-email = E-mail
profile-current-password = Current password
profile-current-password-hint = Needed to change the username or the e-mail; not for the full name alone.
profile-submit = Save

form-check-fields = That did not work yet. Please look at the marked fields.
form-wrong-credentials = The e-mail or username and the password do not match an account. Please check both.
form-account-disabled = This account is disabled. Please ask an administrator.
form-throttled = There were too many attempts. Please wait { $wait }, then try again.
form-over-budget = This was done too often within the hour, so nothing was changed. Please wait { $wait }, then try again.
form-expired = This form was too old. Nothing was sent; please try again.
form-conflict = Somebody changed this at the same moment. Please look at it again and repeat what is missing.
form-unavailable = That did not work just now, and nothing was changed. Please try again in a moment.

problem-missing = Please fill this in.
problem-email = This is not an e-mail address; it should look like name@example.org.
problem-email-taken = There is already an account with this e-mail.
problem-username-length = A username has 3 to 50 characters.
problem-username-characters = A username has letters and digits, and inside it also . _ and -
problem-username-scripts = A username does not mix letters of different scripts.
problem-username-taken = This username, or one that looks like it, is taken; please choose another.
problem-full-name-length = A full name has at most 200 characters.
problem-full-name-characters = A full name has no control characters, and none that cannot be seen or that turn the direction of the text.
problem-password-too-short = A password has at least 8 characters.
problem-password-too-long = A password has at most 1,024 characters.
problem-password-nul = A password cannot hold the NUL character.
problem-password-wrong = This is not your current password.
problem-password-needed = Please give your current password: the username or the e-mail changes.
problem-password-unchanged = This is the password you have already; please choose a new one.
problem-other-username = This is not the username of this account; nothing was erased.
problem-myself = Please tick this as well, if you mean your own account.
problem-time = This is no time; it should look like 2026-01-31 or 2026-01-31 18:30.
problem-time-order = The end lies before the beginning.
problem-user-unknown = There is no such account.
problem-never-held = There is no such account, and there was none.
problem-several-held = Several accounts held this, one after the other; Replay tells them apart.
problem-moment = This is neither a time nor a line; it should look like 2026-01-31 18:30 or 4711.
problem-not-yet = This is still to come.
problem-place = Give an address, an IPv4 network from /16 on, or an IPv6 network from /40 to /48.
problem-session = This is no session id.
problem-event-type = There is no such kind of event.
problem-actor = Please give an account, “system”, “anonymous” or “cli”.
