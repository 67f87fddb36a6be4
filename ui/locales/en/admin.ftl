# The admin's pages.

users-title = Users
users-search = Find an account
users-search-hint = The whole e-mail or username
users-search-submit = Find
users-search-clear = Show all
users-none = There is no account yet.
users-none-found = There is no account with exactly this e-mail or username.
users-table = Accounts
users-person = Person
users-email = E-mail
users-roles = Roles
users-registered = Registered
users-state = State
users-manage = Manage
users-manage-named = Manage { $name }
users-you = You
users-active = Active
users-disabled = Disabled
users-disable = Disable account
users-enable = Enable account
users-disable-hint = Ends all its sessions at once.
users-grant = Grant { $role }
users-revoke = Revoke { $role }
users-see-history = See history
