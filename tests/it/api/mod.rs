//! What programs are answered: each row of the API, each refusal, and what attackers try.

mod accounts;
mod addresses;
mod admins;
mod bad_input;
mod budgets;
mod crowds;
mod documents;
mod history;
mod metrics;
mod privacy;
mod projections;
mod races;
mod refreshing;
mod sessions;
mod signing_in;
mod slow_clients;
mod state;
mod tail;
mod throttling;
mod tokens;
