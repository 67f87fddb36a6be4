//! Cuts: what ends all sessions of an account but one, whatever races with it.

use commands::SignInError;
use domain::Password;

use crate::book::Desk;

#[tokio::test]
async fn a_session_opened_with_the_old_password_dies_with_it_however_they_race() {
    let desk = Desk::open().await;
    let ada = desk.register("ada").await;
    let (id, kept) = (ada.account.id, ada.kept());
    let other = desk.sign_in("ada", "the password of ada").await.unwrap();
    let current = Password::present("the password of ada").unwrap();
    let new = Password::choose("a new password of ada").unwrap();
    desk.book.change_password(id, Some(kept), current, new, &desk.origin()).await.unwrap();
    // The end of the other session is not posted yet, and it is over all the same.
    let refused = desk.book.refresh(other.refresh.expose(), &desk.origin()).await.unwrap_err();
    assert!(
        matches!(refused, commands::RefreshError::Ended(domain::EndReason::PasswordChanged)),
        "{refused:?}"
    );
    desk.book.refresh(ada.refresh.expose(), &desk.origin()).await.unwrap();
    assert!(matches!(
        desk.sign_in("ada", "the password of ada").await,
        Err(SignInError::WrongCredentials)
    ));
    desk.sign_in("ada", "a new password of ada").await.unwrap();

    desk.book.disable(id, &desk.origin()).await.unwrap();
    let refused = desk.book.session_of_refresh(ada.refresh.expose()).await.unwrap_err();
    assert!(
        matches!(refused, commands::RefreshError::Invalid | commands::RefreshError::Ended(_)),
        "{refused:?}"
    );
    assert!(matches!(
        desk.sign_in("ada", "a new password of ada").await,
        Err(SignInError::WrongCredentials)
    ));
    desk.book.enable(id, &desk.origin()).await.unwrap();
    let refused = desk.book.refresh(other.refresh.expose(), &desk.origin()).await.unwrap_err();
    assert!(
        matches!(refused, commands::RefreshError::Ended(_)),
        "enabling revives no session: {refused:?}"
    );
}

/// Only the last cut counts: one that kept a session which an earlier cut has ended would bring it back, and end its owner's.
#[tokio::test]
async fn a_session_that_was_cut_keeps_itself_by_no_later_cut() {
    let desk = Desk::open().await;
    let thief = desk.register("ada").await;
    let owner = desk.sign_in("ada", "the password of ada").await.unwrap();
    let id = owner.account.id;
    let current = || Password::present("the password of ada").unwrap();
    let new = |text: &str| Password::choose(text).unwrap();
    desk.book
        .change_password(
            id,
            Some(owner.kept()),
            current(),
            new("a new password of ada"),
            &desk.origin(),
        )
        .await
        .unwrap();
    // The thief's request was let in a moment before.
    let refused = desk.book.end_other_sessions(id, thief.kept(), &desk.origin()).await.unwrap_err();
    assert!(
        matches!(refused, commands::CommandError::Refused(domain::UserRefusal::SessionOver)),
        "{refused:?}"
    );
    let known = Password::present("a new password of ada").unwrap();
    let refused = desk
        .book
        .change_password(
            id,
            Some(thief.kept()),
            known,
            new("the password of a thief"),
            &desk.origin(),
        )
        .await
        .unwrap_err();
    assert!(matches!(refused, commands::ChangePasswordError::SessionOver), "{refused:?}");
    desk.book.refresh(owner.refresh.expose(), &desk.origin()).await.unwrap();
    let refused = desk.book.refresh(thief.refresh.expose(), &desk.origin()).await.unwrap_err();
    assert!(matches!(refused, commands::RefreshError::Ended(_)), "{refused:?}");
    // Whoever was kept may keep itself once more.
    desk.book.end_other_sessions(id, owner.kept(), &desk.origin()).await.unwrap();
    desk.book.refresh(owner.refresh.expose(), &desk.origin()).await.unwrap();
}

#[tokio::test]
async fn ending_all_others_needs_no_read_table() {
    let desk = Desk::open().await;
    let ada = desk.register("ada").await;
    let other = desk.sign_in("ada", "the password of ada").await.unwrap();
    // Nothing is projected here: no table knows of either session.
    desk.book.end_other_sessions(ada.account.id, ada.kept(), &desk.origin()).await.unwrap();
    let refused = desk.book.refresh(other.refresh.expose(), &desk.origin()).await.unwrap_err();
    assert!(
        matches!(refused, commands::RefreshError::Ended(domain::EndReason::EndedOthers)),
        "{refused:?}"
    );
    desk.book.refresh(ada.refresh.expose(), &desk.origin()).await.unwrap();
    desk.sign_in("ada", "the password of ada").await.unwrap();
}

/// What an older build has stored, which let a session that was over keep itself: no fold brings it back.
#[tokio::test]
async fn a_stored_cut_that_keeps_a_session_which_was_over_brings_it_back_nowhere() {
    let desk = Desk::open().await;
    let thief = desk.register("ada").await;
    let owner = desk.sign_in("ada", "the password of ada").await.unwrap();
    let id = owner.account.id;
    let current = Password::present("the password of ada").unwrap();
    let new = Password::choose("a new password of ada").unwrap();
    desk.book.change_password(id, Some(owner.kept()), current, new, &desk.origin()).await.unwrap();
    let stored = sqlx::query(
        "INSERT INTO events (aggregate_type, aggregate_id, sequence, event_type, event_version, payload, metadata)
         SELECT aggregate_type, aggregate_id, sequence + 1, 'UserSessionsEnded', '1',
                jsonb_build_object('UserSessionsEnded', jsonb_build_object('kept_session', $2::text)), metadata - 'mac'
           FROM events
          WHERE aggregate_type = 'User' AND aggregate_id = $1 AND event_type = 'UserPasswordChanged'",
    )
    .bind(id.to_string())
    .bind(thief.kept().session.to_string())
    .execute(&desk.pool)
    .await
    .unwrap();
    assert_eq!(stored.rows_affected(), 1);
    let user = desk.book.user(id).await.unwrap();
    assert_eq!((user.version, user.cut.unwrap().version), (3, 3));
    for session in [&thief, &owner] {
        let kept = session.kept();
        assert!(!user.keeps(kept.session, kept.version));
        let refused = desk.book.refresh(session.refresh.expose(), &desk.origin()).await;
        assert!(matches!(refused, Err(commands::RefreshError::Ended(_))), "{:?}", refused.err());
        let refused = desk.book.end_other_sessions(id, kept, &desk.origin()).await.unwrap_err();
        assert!(
            matches!(refused, commands::CommandError::Refused(domain::UserRefusal::SessionOver)),
            "{refused:?}"
        );
    }
}
