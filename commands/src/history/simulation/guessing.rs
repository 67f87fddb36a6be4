//! Who fails: people who mistype, and strangers who guess. Each failure goes by the guards, so that
//! throttles and what they turn away are those of the real thing.

use super::*;
use crate::throttle::Bucket;

/// Identifiers that strangers try. Nobody here has one of them.
const GUESSES: usize = 200;
const GUESSERS: usize = 40;

impl Simulation {
    pub(super) async fn meet_guessers(&mut self) -> Result<(), HistoryError> {
        // The guards of addresses go by the month; here they stay the same in all of them.
        let month = self.book().keyring().month(self.now).await?;
        for number in 0..GUESSES {
            let typed = format!("root{number}");
            let index = self.book().keyring().unknown_index(&typed);
            let subject = GuardSubject::Identifier(index);
            self.guesses.push(Guess { typed, subject, guarded: Guarded::default() });
        }
        for _ in 0..GUESSERS {
            let address = self.chance.address();
            let mut guesser = Guesser {
                address,
                subject: GuardSubject::Address(domain::Index(String::new())),
                counted: Bucket::default(),
                guarded: Guarded::default(),
            };
            // The narrowest alone: these guessers have an address each.
            if let Some(network) = guesser.origin().networks().first() {
                let index = self.book().keyring().guard_address_index(&month, &network.name);
                guesser.subject = GuardSubject::Address(index);
            }
            self.guessers.push(guesser);
        }
        Ok(())
    }

    /// Somebody types an e-mail address that is nobody's.
    pub(super) fn mistype(
        &mut self,
        person: &mut Person,
        device: usize,
    ) -> Result<(), HistoryError> {
        let now = self.now;
        let Some(device) = person.devices.get(device) else { return Ok(()) };
        let origin = device.origin(By::Anonymous);
        let typed = format!("{}@exmaple.org", super::super::username(person.number as u32 + 1));
        let subject = GuardSubject::Identifier(self.book().keyring().unknown_index(&typed));
        if person.mistyped.guard.admit(now).is_ok() {
            let identifier = self.seal_typed(&subject, &typed)?;
            let events = person.mistyped.guard.fail(
                subject.clone(),
                domain::FailureReason::UnknownIdentifier,
                Some(identifier),
                now,
                &self.policy(),
            );
            self.desk.guard(&subject, &mut person.mistyped, None, events, origin, now);
        }
        Ok(())
    }

    /// Sealed under the key of the month, as what is nobody's is.
    fn seal_typed(
        &self,
        subject: &GuardSubject,
        typed: &str,
    ) -> Result<domain::Sealed, HistoryError> {
        let keyring = self.book().keyring();
        let month = self.runtime.block_on(keyring.month(self.now))?;
        let place = format!("SignInGuard/{}/identifier", subject.stream_id());
        Ok(keyring.seal(&month, &place, typed.as_bytes()))
    }

    /// Many guesses from one address: at whatever name, or at one of the people.
    pub(super) fn attack(&mut self) {
        let guesser = self.chance.below(GUESSERS);
        let left = 20 + self.chance.below(200) as u32;
        let target = self.chance.happens(0.3).then(|| self.chance.person());
        self.schedule(self.now, Act::Guess { guesser, left, target });
    }

    pub(super) fn guess(
        &mut self,
        number: usize,
        left: u32,
        target: Option<usize>,
    ) -> Result<(), HistoryError> {
        let now = self.now;
        if left > 1 {
            let next = now + self.chance.seconds(0.3, 4.0);
            self.schedule(next, Act::Guess { guesser: number, left: left - 1, target });
        }
        let Some(guesser) = self.guessers.get(number) else { return Ok(()) };
        let origin = guesser.origin();
        let network_admits = guesser.guarded.guard.admit(now).is_ok();
        let target = target.filter(|person| self.people.get(*person).is_some_and(Option::is_some));
        let looked_at = match target {
            Some(person) => {
                let mut looked_at = false;
                self.with(person, |this, person| {
                    looked_at = this.guess_person(person, network_admits, number, origin)?;
                    Ok(())
                })?;
                looked_at
            }
            None => {
                let guess = self.chance.below(GUESSES);
                self.guess_name(guess, network_admits, number, origin)?
            }
        };
        if looked_at {
            self.count_address(number);
        }
        Ok(())
    }

    fn guess_person(
        &mut self,
        person: &mut Person,
        network_admits: bool,
        guesser: usize,
        origin: Origin,
    ) -> Result<bool, HistoryError> {
        let now = self.now;
        if person.sign_ins.guard.admit(now).is_err() {
            self.turn_away(Door::Person(person.number), now);
            return Ok(false);
        }
        if !network_admits {
            self.turn_away(Door::Guesser(guesser), now);
            return Ok(false);
        }
        let subject = GuardSubject::Account(person.id);
        let reason = domain::FailureReason::WrongPassword;
        let policy = self.policy();
        let events = person.sign_ins.guard.fail(subject.clone(), reason, None, now, &policy);
        let key = Some(&person.key);
        self.desk.guard(&subject, &mut person.sign_ins, key, events, origin, now);
        Ok(true)
    }

    fn guess_name(
        &mut self,
        number: usize,
        network_admits: bool,
        guesser: usize,
        origin: Origin,
    ) -> Result<bool, HistoryError> {
        let now = self.now;
        let policy = self.policy();
        let Some(guess) = self.guesses.get(number) else { return Ok(false) };
        if guess.guarded.guard.admit(now).is_err() {
            self.turn_away(Door::Guess(number), now);
            return Ok(false);
        }
        if !network_admits {
            self.turn_away(Door::Guesser(guesser), now);
            return Ok(false);
        }
        let identifier = Some(self.seal_typed(&guess.subject, &guess.typed)?);
        let Some(Guess { subject, guarded, .. }) = self.guesses.get_mut(number) else {
            return Ok(false);
        };
        let reason = domain::FailureReason::UnknownIdentifier;
        let events = guarded.guard.fail(subject.clone(), reason, identifier, now, &policy);
        self.desk.guard(subject, guarded, None, events, origin, now);
        Ok(true)
    }

    /// Failures per address are counted in memory, and only a throttle is an event.
    fn count_address(&mut self, number: usize) {
        let now = self.now;
        let policy = self.desk.book.settings().address_throttle;
        let Some(guesser) = self.guessers.get_mut(number) else { return };
        let origin = guesser.origin();
        let Guesser { subject, counted, guarded, .. } = guesser;
        counted.add(now, &policy);
        if let Some((failures, until)) = counted.full(now, &policy) {
            let events = guarded.guard.throttle(subject.clone(), failures, now, until);
            self.desk.guard(subject, guarded, None, events, origin, now);
        }
    }

    /// Counts an attempt that was not looked at.
    pub(super) fn turn_away(&mut self, at: Door, now: DateTime<Utc>) {
        if self.turned_away.is_empty() {
            let window = TimeDelta::from_std(self.book().settings().blocked_window);
            self.schedule(now + window.unwrap_or(TimeDelta::minutes(1)), Act::PostTurnedAway);
        }
        let turned =
            self.turned_away.entry(at).or_insert(Turned { at, count: 0, from: now, to: now });
        turned.count += 1;
        turned.to = now;
    }

    pub(super) fn post_turned_away(&mut self) -> Result<(), HistoryError> {
        let now = self.now;
        for Turned { at, count, from, to } in std::mem::take(&mut self.turned_away).into_values() {
            let origin = Origin::system(String::new());
            match at {
                Door::Person(person) => self.with(person, |this, person| {
                    let subject = GuardSubject::Account(person.id);
                    let guarded = &mut person.sign_ins;
                    let events = guarded.guard.post_blocked(subject.clone(), count, from, to);
                    this.desk.guard(&subject, guarded, None, events, origin, now);
                    Ok(())
                })?,
                Door::Guess(number) => {
                    if let Some(Guess { subject, guarded, .. }) = self.guesses.get_mut(number) {
                        let events = guarded.guard.post_blocked(subject.clone(), count, from, to);
                        self.desk.guard(subject, guarded, None, events, origin, now);
                    }
                }
                Door::Guesser(number) => {
                    if let Some(Guesser { subject, guarded, .. }) = self.guessers.get_mut(number) {
                        let events = guarded.guard.post_blocked(subject.clone(), count, from, to);
                        self.desk.guard(subject, guarded, None, events, origin, now);
                    }
                }
            }
        }
        Ok(())
    }
}
