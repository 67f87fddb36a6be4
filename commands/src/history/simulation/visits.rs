//! What people do: they sign in, now and then with a wrong password, stay a while, change something,
//! and leave.

use super::*;
use domain::Kept;

impl Simulation {
    /// Somebody comes to one of their devices: one who was never there registers.
    pub(super) fn visit(&mut self) -> Result<(), HistoryError> {
        let number = self.chance.person();
        let newcomer = self.people.get(number).is_none_or(Option::is_none);
        if newcomer {
            let username = super::super::username(number as u32 + 1);
            self.register(number, &username, None, &[Role::User])?;
            return self.with(number, |this, person| {
                this.stay(person, 0);
                Ok(())
            });
        }
        self.with(number, |this, person| {
            let Some(device) = this.choose_device(person) else { return Ok(()) };
            let now = this.now;
            let signed_in = person.devices.get(device).is_some_and(|device| {
                device.open.as_ref().is_some_and(|open| open.session.live(now).is_ok())
            });
            if signed_in {
                this.refresh(person, device)?;
                this.stay(person, device);
                return Ok(());
            }
            if let Some(device) = person.devices.get_mut(device) {
                device.busy = true;
            }
            if this.chance.happens(0.02) {
                this.mistype(person, device)?;
            }
            let wrong = match this.chance.below(100) {
                0 => 5 + this.chance.below(4),
                1..8 => 1 + this.chance.below(2),
                _ => 0,
            };
            this.sign_in(person, device, wrong as u32)
        })
    }

    /// One that nobody is at: mostly the first ones, now and then a new one.
    fn choose_device(&mut self, person: &mut Person) -> Option<usize> {
        if person.devices.len() < 5 && self.chance.happens(0.03) {
            let device = self.new_device();
            person.devices.push(device);
            return Some(person.devices.len() - 1);
        }
        let mut idle = (0..person.devices.len())
            .filter(|index| person.devices.get(*index).is_some_and(|device| !device.busy));
        let mut chosen = idle.next()?;
        for other in idle {
            if self.chance.happens(0.35) {
                chosen = other;
            }
        }
        Some(chosen)
    }

    /// Stays for an hour or so.
    fn stay(&mut self, person: &mut Person, device: usize) {
        let number = person.number;
        if let Some(device) = person.devices.get_mut(device) {
            device.busy = true;
        }
        let until = self.now + self.chance.about(3_600.0);
        let next = self.now + self.chance.seconds(600.0, 900.0);
        self.schedule(next, Act::Active { person: number, device, until });
    }

    /// One attempt to sign in.
    pub(super) fn sign_in(
        &mut self,
        person: &mut Person,
        device: usize,
        wrong: u32,
    ) -> Result<(), HistoryError> {
        let now = self.now;
        let number = person.number;
        let Some(at_device) = person.devices.get_mut(device) else { return Ok(()) };
        let by_nobody = at_device.origin(By::Anonymous);
        if let Err(throttled) = person.sign_ins.guard.admit(now) {
            self.turn_away(Door::Person(number), now);
            // Most wait and come again; the others come another day.
            if self.chance.happens(0.8) {
                let again = throttled.until + self.chance.seconds(1.0, 30.0);
                self.schedule(again, Act::SignIn { person: number, device, wrong });
            } else {
                at_device.busy = false;
            }
            return Ok(());
        }
        let subject = GuardSubject::Account(person.id);
        let reason = if wrong > 0 {
            Some(domain::FailureReason::WrongPassword)
        } else if person.user.disabled {
            Some(domain::FailureReason::AccountDisabled)
        } else {
            None
        };
        if let Some(reason) = reason {
            let policy = self.policy();
            let events = person.sign_ins.guard.fail(subject.clone(), reason, None, now, &policy);
            let key = Some(&person.key);
            self.desk.guard(&subject, &mut person.sign_ins, key, events, by_nobody, now);
            if wrong > 0 {
                let again = now + self.chance.seconds(4.0, 20.0);
                self.schedule(again, Act::SignIn { person: number, device, wrong: wrong - 1 });
            } else if let Some(device) = person.devices.get_mut(device) {
                device.busy = false;
            }
            return Ok(());
        }
        let events = person.sign_ins.guard.clear(subject.clone(), now);
        let origin = by_nobody.with(By::User(person.id));
        let key = Some(&person.key);
        self.desk.guard(&subject, &mut person.sign_ins, key, events, origin, now);
        self.start(person, device, SignInMethod::Password)?;
        self.stay(person, device);
        Ok(())
    }

    /// Opens a session. One that the device has from before is left to expire.
    pub(super) fn start(
        &mut self,
        person: &mut Person,
        device: usize,
        method: SignInMethod,
    ) -> Result<(), HistoryError> {
        let at = self.now;
        let number = person.number;
        let for_display = number == self.display();
        let lifetime = |remembers| self.book().refresh_lifetime(remembers);
        let Some(at_device) = person.devices.get_mut(device) else { return Ok(()) };
        at_device.remembers |= for_display;
        let remember_me = at_device.remembers;
        let expires_at = at + lifetime(remember_me);
        let id = self.desk.new_session(at);
        let (token, refresh) = self.book().tokens().issue_refresh(id);
        let mut open = Open {
            id,
            session: domain::Session::default(),
            sequence: 0,
            token: refresh.clone(),
            spent: None,
            kept: for_display.then_some(token),
        };
        let start = Start {
            user_id: person.id,
            user_version: person.user.version,
            methods: vec![method],
            refresh,
            remember_me,
            at,
            expires_at,
        };
        let events = open.session.start(start).map_err(refused)?;
        let origin = at_device.origin(By::User(person.id));
        self.desk.session(&mut open, &person.key, events, origin, at);
        at_device.open = Some(open);
        self.sessions += 1;
        self.schedule(expires_at, Act::Expiry { person: number, device, session: id });
        Ok(())
    }

    /// Spends the device's refresh token for the next.
    pub(super) fn refresh(
        &mut self,
        person: &mut Person,
        device: usize,
    ) -> Result<(), HistoryError> {
        let for_display = person.number == self.display();
        self.spend(person, device, self.now, false)?;
        // Two tabs refresh in the same moment: the second comes with the token that was just spent.
        if !for_display && self.chance.happens(0.008) {
            let at = self.now + self.chance.seconds(0.05, 5.0);
            self.spend(person, device, at, true)?;
        }
        Ok(())
    }

    fn spend(
        &mut self,
        person: &mut Person,
        device: usize,
        at: DateTime<Utc>,
        spent: bool,
    ) -> Result<(), HistoryError> {
        let settings = self.book().settings();
        let grace = settings.refresh_grace;
        let Some(at_device) = person.devices.get_mut(device) else { return Ok(()) };
        let expires_at = at + self.desk.book.refresh_lifetime(at_device.remembers);
        let origin = at_device.origin(By::User(person.id));
        let Some(open) = &mut at_device.open else { return Ok(()) };
        let presented = match (&open.spent, spent) {
            (Some(token), true) => token.clone(),
            _ => open.token.clone(),
        };
        let (token, next) = self.desk.book.tokens().issue_refresh(open.id);
        let facts = Refresh { presented, next: next.clone(), at, expires_at, grace };
        let events = open.session.refresh(facts).map_err(refused)?;
        let ended = events.iter().any(|event| event.name() == "SessionEnded");
        self.desk.session(open, &person.key, events, origin, at);
        open.spent = Some(std::mem::replace(&mut open.token, next));
        if open.kept.is_some() {
            open.kept = Some(token);
        }
        if ended {
            at_device.open = None;
        }
        Ok(())
    }

    /// Ten minutes later: still there, or gone.
    pub(super) fn go_on(
        &mut self,
        person: &mut Person,
        device: usize,
        until: DateTime<Utc>,
    ) -> Result<(), HistoryError> {
        let now = self.now;
        let number = person.number;
        let Some(at_device) = person.devices.get_mut(device) else { return Ok(()) };
        if at_device.open.is_none() {
            // It was ended elsewhere. Some sign in again, the others leave.
            at_device.busy = self.chance.happens(0.5);
            if at_device.busy {
                self.schedule(now, Act::SignIn { person: number, device, wrong: 0 });
            }
            return Ok(());
        }
        if now >= until {
            at_device.busy = false;
            if self.chance.happens(0.3) {
                let origin = at_device.origin(By::User(person.id));
                self.end(person, device, EndReason::SignedOut, origin, now)?;
            }
            return Ok(());
        }
        // A stolen token, found out: the one before is used long after.
        let stolen = self.chance.happens(0.000_1);
        if stolen {
            self.spend(person, device, now, true)?;
        } else {
            self.refresh(person, device)?;
        }
        self.change_something(person, device)?;
        let next = now + self.chance.seconds(600.0, 900.0);
        self.schedule(next, Act::Active { person: number, device, until });
        Ok(())
    }

    /// Now and then somebody changes their account, or has it changed.
    fn change_something(&mut self, person: &mut Person, device: usize) -> Result<(), HistoryError> {
        let now = self.now;
        let Some(at_device) = person.devices.get(device) else { return Ok(()) };
        let origin = at_device.origin(By::User(person.id));
        let kept = at_device.open.as_ref().map(|open| open.id);
        match self.chance.below(100_000) {
            0..150 => self.change_password(person, kept, origin),
            150..350 => self.change_profile(person, origin),
            350..450 => {
                let kept_now = kept.map(|session| Kept { session, version: person.user.version });
                let events = person.user.end_sessions(kept_now).map_err(refused)?;
                self.desk.user(person, events, origin, now);
                self.end_others(person, kept, EndReason::EndedOthers)
            }
            450..600 => {
                let other = (0..person.devices.len()).find(|other| *other != device);
                match other {
                    Some(other) => self.end(person, other, EndReason::EndedElsewhere, origin, now),
                    None => Ok(()),
                }
            }
            600..610 => {
                let role = Role::Auditor;
                let events = if person.user.roles.contains(&role) {
                    person.user.revoke_role(role)
                } else {
                    person.user.grant_role(role)
                };
                let by_admin = self.by_admin();
                self.desk.user(person, events.map_err(refused)?, by_admin, now);
                Ok(())
            }
            610..613 => {
                let events = person.user.disable().map_err(refused)?;
                let by_admin = self.by_admin();
                self.desk.user(person, events, by_admin, now);
                let enabled = now + self.chance.seconds(86_400.0, 10.0 * 86_400.0);
                self.schedule(enabled, Act::Enable { person: person.number });
                self.end_others(person, None, EndReason::AccountDisabled)
            }
            613..620 => {
                let hash = self.seal_password(person);
                let stored = person.user.registered().map_err(refused)?.password.clone();
                let events = person.user.rehash_password(&stored, hash).map_err(refused)?;
                self.desk.user(person, events, origin, now);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn seal_password(&self, person: &Person) -> domain::Sealed {
        let place = password_place(person.id);
        self.book().keyring().seal(&person.key, &place, self.hash.as_bytes())
    }

    /// A new password (the same, sealed anew). Some get the present one wrong at first.
    fn change_password(
        &mut self,
        person: &mut Person,
        kept: Option<SessionId>,
        origin: Origin,
    ) -> Result<(), HistoryError> {
        let mut at = self.now;
        let subject = GuardSubject::Reauthentication(person.id);
        if self.chance.happens(0.15) {
            let policy = self.policy();
            let reason = domain::FailureReason::WrongPassword;
            let events = person.proofs.guard.fail(subject.clone(), reason, None, at, &policy);
            let (key, origin) = (Some(&person.key), origin.clone());
            self.desk.guard(&subject, &mut person.proofs, key, events, origin, at);
            at += self.chance.seconds(3.0, 15.0);
        }
        let password = self.seal_password(person);
        let proved = person.user.registered().map_err(refused)?.password.clone();
        // Sessions that were cut are closed here at once, so the one at hand is kept.
        let kept_now = kept.map(|session| Kept { session, version: person.user.version });
        let events =
            person.user.change_password(Some(&proved), password, kept_now).map_err(refused)?;
        self.desk.user(person, events, origin.clone(), at);
        let events = person.proofs.guard.clear(subject.clone(), at);
        self.desk.guard(&subject, &mut person.proofs, Some(&person.key), events, origin, at);
        self.end_others(person, kept, EndReason::PasswordChanged)
    }

    /// Another e-mail address, or another name.
    fn change_profile(&mut self, person: &mut Person, origin: Origin) -> Result<(), HistoryError> {
        let id = person.id;
        // No two versions of anybody have the same names, so nothing is ever taken.
        let username =
            format!("{}.{}", super::super::username(person.number as u32 + 1), person.user.version);
        let Names { email, full_name, .. } = Names::of(&username)?;
        let moves = self.chance.happens(0.5);
        let book = self.book();
        let email = moves.then(|| book.seal_email(id, &person.key, &email));
        let full_name = (!moves).then(|| book.seal_full_name(id, &person.key, full_name.as_ref()));
        let change = ProfileChange { proved: None, email, username: None, full_name };
        let events = person.user.change_profile(change).map_err(refused)?;
        self.desk.user(person, events, origin, self.now);
        Ok(())
    }

    /// What the account has cut is ended by the process behind it, a moment later.
    fn end_others(
        &mut self,
        person: &mut Person,
        kept: Option<SessionId>,
        reason: EndReason,
    ) -> Result<(), HistoryError> {
        for device in 0..person.devices.len() {
            let open = person.devices.get(device).and_then(|device| device.open.as_ref());
            if open.is_some_and(|open| Some(open.id) != kept) {
                let at = self.now + self.chance.seconds(0.02, 0.2);
                self.end(person, device, reason, Origin::system(String::new()), at)?;
            }
        }
        Ok(())
    }

    fn end(
        &mut self,
        person: &mut Person,
        device: usize,
        reason: EndReason,
        origin: Origin,
        at: DateTime<Utc>,
    ) -> Result<(), HistoryError> {
        let Some(device) = person.devices.get_mut(device) else { return Ok(()) };
        let Some(mut open) = device.open.take() else { return Ok(()) };
        let events = open.session.end(reason, at).map_err(refused)?;
        self.desk.session(&mut open, &person.key, events, origin, at);
        Ok(())
    }

    /// A session was not refreshed in time, or it was: then its time is another.
    pub(super) fn expire(
        &mut self,
        person: &mut Person,
        device: usize,
        session: SessionId,
    ) -> Result<(), HistoryError> {
        let number = person.number;
        let open = person.devices.get(device).and_then(|device| device.open.as_ref());
        let Some(open) = open.filter(|open| open.id == session) else { return Ok(()) };
        let Some(started) = &open.session.started else { return Ok(()) };
        let due = started.expires_at;
        if self.now < due {
            self.schedule(due, Act::Expiry { person: number, device, session });
            return Ok(());
        }
        // The sweeper comes round once in a while.
        let at = self.now + self.chance.seconds(0.0, 30.0);
        self.end(person, device, EndReason::Expired, Origin::system(String::new()), at)
    }
}
