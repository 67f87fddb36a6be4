//! Histories by chance: whatever can stand in a book, in an order that nobody thought of.

use chrono::TimeDelta;
use domain::{Actor, Change, EndReason, GuardSubject, Index, Role, Sealed, UserEvent};
use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::book::{Book, identifier, session, user};

/// Writes histories, each the same for the same seed, with numbers of people and sessions of its own.
pub struct RandomBook {
    pub book: Book,
    random: StdRng,
    people: Vec<u128>,
    /// Their numbers, and whose they are.
    sessions: Vec<(u128, u128)>,
    next: u128,
}

impl RandomBook {
    pub fn new(book: Book, seed: u64) -> Self {
        let random = StdRng::seed_from_u64(seed);
        Self { book, random, people: Vec::new(), sessions: Vec::new(), next: 1_000 }
    }

    /// So many lines, in one statement.
    pub async fn write(&mut self, lines: usize) {
        self.book.hold();
        for _ in 0..lines {
            self.line().await;
        }
        self.book.write_held().await;
    }

    fn number(&mut self) -> u128 {
        self.next += 1;
        self.next
    }

    fn person(&mut self) -> u128 {
        self.people[self.random.random_range(0..self.people.len())]
    }

    async fn line(&mut self) {
        // Clocks differ: time goes back now and then.
        self.book.now += TimeDelta::seconds(self.random.random_range(-90..300));
        let die = if self.people.is_empty() { 0 } else { self.random.random_range(0..100) };
        if self.random.random_bool(0.1) {
            let number = self.number();
            self.book.actor = match die % 4 {
                0 => Actor::Anonymous,
                1 => Actor::System,
                2 => Actor::Cli(Sealed(format!("operator {number}"))),
                _ => Actor::User(user(number)),
            };
        }
        match die {
            0..8 => {
                let number = self.number();
                self.people.push(number);
                let name = format!("person{number}");
                self.book.user(user(number), registered(&name)).await;
            }
            8..25 => {
                let (number, person) = (self.number(), self.person());
                self.sessions.push((number, person));
                let version = self.random.random_range(1..9);
                self.book.start(session(number), user(person), version).await;
            }
            25..75 if !self.sessions.is_empty() => {
                // Some sessions are used much more than others.
                let most = self.random.random_range(1..=self.sessions.len());
                let (number, person) = self.sessions[self.random.random_range(0..most)];
                if die < 65 {
                    self.book.refresh(session(number), user(person)).await;
                } else {
                    let reasons =
                        [EndReason::SignedOut, EndReason::Expired, EndReason::TokenReused];
                    let reason = reasons[self.random.random_range(0..3)];
                    self.book.end(session(number), user(person), reason).await;
                }
            }
            25..85 => {
                let person = self.person();
                let number = self.number();
                let (subject, typed) = if die % 2 == 0 {
                    (GuardSubject::Account(user(person)), None)
                } else {
                    (GuardSubject::Identifier(Index(format!("#{number}"))), Some("typed"))
                };
                self.book.fail(subject, typed).await;
            }
            _ => {
                let (person, number) = (self.person(), self.number());
                let event = self.change(&format!("person{person}"), &format!("person{number}"));
                self.book.user(user(person), event).await;
            }
        }
    }

    fn change(&mut self, from: &str, to: &str) -> UserEvent {
        let role = [Role::User, Role::Auditor, Role::Admin][self.random.random_range(0..3)];
        match self.random.random_range(0..7) {
            0 => UserEvent::ProfileChanged {
                email: Some(Change { from: identifier(from), to: identifier(to) }),
                username: None,
                full_name: Some(Change { from: None, to: Some(Sealed(to.to_owned())) }),
            },
            1 => UserEvent::ProfileChanged {
                email: None,
                username: Some(Change { from: identifier(from), to: identifier(to) }),
                full_name: Some(Change { from: Some(Sealed(from.to_owned())), to: None }),
            },
            2 => UserEvent::RoleGranted { role },
            3 => UserEvent::RoleRevoked { role },
            4 => UserEvent::Disabled {},
            5 => UserEvent::Enabled {},
            _ => UserEvent::PasswordChanged { password: Sealed(to.to_owned()), kept_session: None },
        }
    }
}

fn registered(name: &str) -> UserEvent {
    UserEvent::Registered {
        email: identifier(&format!("{name}@x")),
        username: identifier(name),
        full_name: None,
        password: Sealed("password".into()),
        roles: [Role::User].into(),
    }
}
