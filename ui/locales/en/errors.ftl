# Error pages.

error-not-found-title = There is nothing here
error-not-found-detail = The address may be mistyped, or what was here may be gone, or is not yours to see.
error-forbidden-title = This is not for you to see
error-forbidden-detail = Your account does not have the role that this page asks for. If it should, ask an administrator.
error-bad-request-title = That request could not be understood
error-bad-request-detail = Nothing was changed. Go back, check what you entered, and try again.
error-method-title = That cannot be done here
error-method-detail = This address does not take that kind of request. Nothing was changed.
error-too-large-title = That was too much at once
error-too-large-detail = The request is larger than this page takes. Nothing was changed.
error-throttled-title = Too many requests
error-throttled-detail = Please wait a little, then try again.
error-throttled-wait = Please wait { $wait }, then try again.
error-unavailable-title = Back in a moment
error-unavailable-detail = Entrybook cannot reach something it needs. What was already answered is safe; please try again shortly.
error-building-title = Being put together
error-building-detail = This is being put together from the history, for the first time. Signing in works meanwhile; please look again in a moment.
error-internal-title = Something went wrong on our side
error-internal-detail = It is noted in the log under the request below. Name it when you ask for help.
error-other-title = That did not work
error-other-detail = Please go back and try again.
error-request-id = Request
error-home = To the overview
error-sign-in = To the sign-in
