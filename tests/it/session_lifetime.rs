//! A session lasts no longer than it may, however often it is refreshed: issue 10, number 16.

use chrono::TimeDelta;
use commands::{RefreshError, SignedIn};
use domain::EndReason;

use crate::book::Desk;

async fn refresh(desk: &Desk, session: &SignedIn) -> Result<SignedIn, RefreshError> {
    desk.book.refresh(session.refresh.expose(), &desk.origin()).await
}

#[tokio::test]
async fn a_session_is_over_after_ninety_days_however_often_it_is_refreshed() {
    let desk = Desk::open().await;
    let mut session = desk.register("ada").await;
    let began = desk.book.clock().now();
    for _ in 0..89 {
        desk.clock.advance(TimeDelta::hours(23));
        desk.clock.advance(TimeDelta::minutes(59));
        session = refresh(&desk, &session).await.unwrap();
    }
    // 89 days less 89 minutes. From here on nothing outlives the session.
    desk.clock.advance(TimeDelta::hours(20));
    session = refresh(&desk, &session).await.unwrap();
    let over = began + TimeDelta::days(90);
    assert_eq!(session.refresh_expires_at, over);
    desk.clock.set(over - TimeDelta::minutes(5));
    session = refresh(&desk, &session).await.unwrap();
    assert_eq!(session.access.expires_at, over, "an access token would last for fifteen minutes");
    let live = desk.book.session_of_refresh(session.refresh.expose()).await.unwrap();
    assert_eq!(live.expires_at, over);

    desk.clock.set(over);
    let looked = desk.book.session_of_refresh(session.refresh.expose()).await.unwrap_err();
    assert!(matches!(looked, RefreshError::Ended(EndReason::Expired)), "{looked:?}");
    let refused = refresh(&desk, &session).await.unwrap_err();
    assert!(matches!(refused, RefreshError::Ended(EndReason::Expired)), "{refused:?}");
    assert!(desk.book.tokens().verify(&session.access.token).await.is_err());
    assert!(desk.register("ben").await.refresh_expires_at > over, "others are not concerned");
}

/// Its tokens were issued when there was no such bound, and say that they last for longer.
#[tokio::test]
async fn a_session_of_before_the_bound_is_ended_when_its_time_is_over() {
    let desk = Desk::open().await;
    let session = desk.register("ada").await;
    let id = session.session_id;
    // The last refresh under the old rule: it was to last for another month.
    let event = domain::SessionEvent::Refreshed {
        user_id: session.account.id,
        refresh: desk.book.tokens().read_refresh(session.refresh.expose()).unwrap().1,
        in_grace: false,
        at: desk.book.clock().now() + TimeDelta::days(85),
        expires_at: desk.book.clock().now() + TimeDelta::days(115),
    };
    let stream =
        desk.book.store().load::<commands::SessionAggregate>(&id.to_string()).await.unwrap();
    desk.book.store().append(&stream, &[event], &std::collections::HashMap::new()).await.unwrap();

    desk.clock.advance(TimeDelta::days(86));
    let next = refresh(&desk, &session).await.unwrap();
    assert_eq!(next.refresh_expires_at, desk.book.clock().now() + TimeDelta::days(1));
    desk.clock.advance(TimeDelta::hours(23));
    let event = domain::SessionEvent::Refreshed {
        user_id: session.account.id,
        refresh: desk.book.tokens().read_refresh(next.refresh.expose()).unwrap().1,
        in_grace: false,
        at: desk.book.clock().now(),
        expires_at: desk.book.clock().now() + TimeDelta::days(30),
    };
    let stream =
        desk.book.store().load::<commands::SessionAggregate>(&id.to_string()).await.unwrap();
    desk.book.store().append(&stream, &[event], &std::collections::HashMap::new()).await.unwrap();
    desk.clock.advance(TimeDelta::days(5));
    let refused = refresh(&desk, &next).await.unwrap_err();
    assert!(matches!(refused, RefreshError::Ended(EndReason::Expired)), "{refused:?}");
    let ended = desk.book.session(id).await.unwrap().ended;
    assert_eq!(ended, Some(EndReason::Expired), "the history says so");
}
