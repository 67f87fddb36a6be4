//! Months of use, simulated: who comes when, and what they do.
//!
//! One heap holds what comes next for everybody, in the order of time: the next visit, the next
//! refresh of each visit under way, the expiry of each open session. So memory grows with people and
//! open sessions, and not with the history.

use std::{cmp::Reverse, collections::BTreeMap, collections::BinaryHeap, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};
use domain::{
    EndReason, GuardSubject, ProfileChange, Refresh, Registration, Role, SessionId, SignInMethod,
    Start, ThrottlePolicy,
};
use tokio::{runtime::Handle, sync::mpsc};

use super::{
    ADMIN, DISPLAY_FROM, Display, HistoryError, Plan, SPAN, Written, beginning,
    chance::Chance,
    desk::{Chunk, Desk},
    person::{Device, Door, Guarded, Guess, Guesser, Names, Open, Person, Turned},
};
use crate::{By, Entrybook, Origin, accounts::password_place};

mod guessing;
mod visits;

/// One transaction holds so many events.
const CHUNK: usize = 5_000;
/// About so many events come of one visit.
const EVENTS_PER_VISIT: f64 = 6.6;
/// How many attacks there are for each visit.
const ATTACKS: f64 = 1.0 / 1_500.0;
const DISPLAY_EVERY: TimeDelta = TimeDelta::minutes(10);

/// What comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Act {
    /// Somebody comes.
    Visit,
    /// An attempt to sign in; so many of the next ones are wrong.
    SignIn {
        person: usize,
        device: usize,
        wrong: u32,
    },
    /// Somebody who is signed in goes on, until then.
    Active {
        person: usize,
        device: usize,
        until: DateTime<Utc>,
    },
    /// A session expires, unless it was refreshed.
    Expiry {
        person: usize,
        device: usize,
        session: SessionId,
    },
    Enable {
        person: usize,
    },
    /// An attack begins.
    Attack,
    Guess {
        guesser: usize,
        left: u32,
        target: Option<usize>,
    },
    PostTurnedAway,
    Display,
}

pub(super) struct Simulation {
    plan: Plan,
    /// The PHC string that everybody's password has.
    hash: String,
    chance: Chance,
    desk: Desk,
    now: DateTime<Utc>,
    acts: BinaryHeap<Reverse<(DateTime<Utc>, u64, Act)>>,
    scheduled: u64,
    /// By their number; the admin and the display are behind the people.
    people: Vec<Option<Box<Person>>>,
    guesses: Vec<Guess>,
    guessers: Vec<Guesser>,
    turned_away: BTreeMap<Door, Turned>,
    visits_per_second: f64,
    accounts: u64,
    sessions: u64,
    runtime: Handle,
}

impl Simulation {
    pub(super) async fn new(
        book: Entrybook,
        plan: Plan,
        hash: String,
    ) -> Result<Self, HistoryError> {
        let at = beginning();
        let many = plan.people as usize + 2;
        let visits = plan.events as f64 / EVENTS_PER_VISIT;
        let mut simulation = Self {
            plan,
            hash,
            chance: Chance::new(plan.seed, plan.people),
            desk: Desk::new(book, plan.seed, plan.events, at),
            now: at,
            acts: BinaryHeap::new(),
            scheduled: 0,
            people: std::iter::repeat_with(|| None).take(many).collect(),
            guesses: Vec::new(),
            guessers: Vec::new(),
            turned_away: BTreeMap::new(),
            visits_per_second: visits / SPAN.as_seconds_f64(),
            accounts: 0,
            sessions: 0,
            runtime: Handle::current(),
        };
        simulation.meet_guessers().await?;
        Ok(simulation)
    }

    fn admin(&self) -> usize {
        self.plan.people as usize
    }

    fn display(&self) -> usize {
        self.plan.people as usize + 1
    }

    fn book(&self) -> &Entrybook {
        &self.desk.book
    }

    fn schedule(&mut self, at: DateTime<Utc>, act: Act) {
        self.scheduled += 1;
        self.acts.push(Reverse((at, self.scheduled, act)));
    }

    /// Makes the whole history, chunk by chunk. It ends early when nobody takes the chunks.
    pub(super) fn run(
        mut self,
        chunks: &mpsc::Sender<(Chunk, DateTime<Utc>)>,
    ) -> Result<Written, HistoryError> {
        self.begin()?;
        while !self.desk.is_done() {
            let Some(Reverse((at, _, act))) = self.acts.pop() else { break };
            self.now = at;
            self.act(act)?;
            if self.desk.waiting() >= CHUNK || self.desk.is_done() {
                let chunk = self.desk.take();
                if chunks.blocking_send((chunk, self.now)).is_err() {
                    break;
                }
            }
        }
        let display = self.display();
        let display = self.people.get_mut(display).and_then(Option::take).and_then(|mut person| {
            let open = person.devices.first_mut()?.open.take()?;
            Some(Display { token: open.kept?, refreshes: open.sequence.saturating_sub(1) })
        });
        Ok(Written {
            events: self.plan.events - self.desk.left(),
            accounts: self.accounts,
            sessions: self.sessions,
            began: beginning(),
            ended: self.now,
            elapsed: Duration::ZERO,
            display,
        })
    }

    /// The admin comes first, from the command line; then the display; then everybody else.
    fn begin(&mut self) -> Result<(), HistoryError> {
        let at = self.now;
        let cli = Origin {
            by: By::Cli { os_user: "operator".to_owned() },
            address: None,
            user_agent: None,
            request_id: String::new(),
        };
        self.register(self.admin(), ADMIN, Some(cli), &Role::ALL)?;
        if self.plan.events >= DISPLAY_FROM {
            let display = self.display();
            self.register(display, "display", None, &[Role::User])?;
            self.schedule(at + DISPLAY_EVERY, Act::Display);
        }
        let first = self.chance.next_visit(at, self.visits_per_second);
        self.schedule(first, Act::Visit);
        let attack = self.chance.about(1.0 / (self.visits_per_second * ATTACKS));
        self.schedule(at + attack, Act::Attack);
        Ok(())
    }

    fn act(&mut self, act: Act) -> Result<(), HistoryError> {
        match act {
            Act::Visit => {
                let next = self.chance.next_visit(self.now, self.visits_per_second);
                self.schedule(next, Act::Visit);
                self.visit()
            }
            Act::SignIn { person, device, wrong } => {
                self.with(person, |this, person| this.sign_in(person, device, wrong))
            }
            Act::Active { person, device, until } => {
                self.with(person, |this, person| this.go_on(person, device, until))
            }
            Act::Expiry { person, device, session } => {
                self.with(person, |this, person| this.expire(person, device, session))
            }
            Act::Enable { person } => self.with(person, |this, person| {
                let origin = this.by_admin();
                let events = person.user.enable().map_err(refused)?;
                this.desk.user(person, events, origin, this.now);
                Ok(())
            }),
            Act::Attack => {
                let next = self.chance.about(1.0 / (self.visits_per_second * ATTACKS));
                self.schedule(self.now + next, Act::Attack);
                self.attack();
                Ok(())
            }
            Act::Guess { guesser, left, target } => self.guess(guesser, left, target),
            Act::PostTurnedAway => self.post_turned_away(),
            Act::Display => {
                let display = self.display();
                self.schedule(self.now + DISPLAY_EVERY, Act::Display);
                self.with(display, |this, person| this.refresh(person, 0))
            }
        }
    }

    /// Does something as one of the people; nothing, where they have not come yet.
    fn with(
        &mut self,
        person: usize,
        act: impl FnOnce(&mut Self, &mut Person) -> Result<(), HistoryError>,
    ) -> Result<(), HistoryError> {
        let Some(mut found) = self.people.get_mut(person).and_then(Option::take) else {
            return Ok(());
        };
        let done = act(self, &mut found);
        if let Some(place) = self.people.get_mut(person) {
            *place = Some(found);
        }
        done
    }

    /// What the admin does, from where the admin is.
    fn by_admin(&self) -> Origin {
        let admin = self.people.get(self.admin()).and_then(Option::as_ref);
        match admin.and_then(|admin| Some((admin.id, admin.devices.first()?))) {
            Some((id, device)) => device.origin(By::User(id)),
            None => Origin::system(String::new()),
        }
    }

    /// An account, and the session that a registration opens.
    fn register(
        &mut self,
        number: usize,
        username: &str,
        origin: Option<Origin>,
        roles: &[Role],
    ) -> Result<(), HistoryError> {
        let at = self.now;
        let (id, key) = self.desk.new_user(at);
        let Names { email, username, full_name } = Names::of(username)?;
        let book = self.book();
        let facts = Registration {
            email: book.seal_email(id, &key, &email),
            username: book.seal_username(id, &key, &username),
            full_name: book.seal_full_name(id, &key, full_name.as_ref()),
            password: book.keyring().seal(&key, &password_place(id), self.hash.as_bytes()),
            roles: roles.iter().copied().collect(),
        };
        let device = self.new_device();
        let from_outside = origin.is_none();
        let origin = origin.unwrap_or_else(|| device.origin(By::User(id)));
        let mut person = Box::new(Person {
            number,
            id,
            key,
            user: domain::User::default(),
            sign_ins: Guarded::default(),
            proofs: Guarded::default(),
            mistyped: Guarded::default(),
            devices: vec![device],
        });
        let events = person.user.register(facts).map_err(refused)?;
        self.desk.user(&mut person, events, origin, at);
        self.accounts += 1;
        if from_outside {
            self.start(&mut person, 0, SignInMethod::Registration)?;
        }
        if let Some(place) = self.people.get_mut(number) {
            *place = Some(person);
        }
        Ok(())
    }

    fn new_device(&mut self) -> Device {
        Device {
            address: self.chance.address(),
            agent: self.chance.agent(),
            remembers: self.chance.happens(0.4),
            busy: false,
            open: None,
        }
    }

    fn policy(&self) -> ThrottlePolicy {
        self.book().settings().throttle
    }
}

fn refused(refusal: impl std::fmt::Display) -> HistoryError {
    HistoryError::Refused(refusal.to_string())
}
