//! Addresses and networks, as the history can be searched for them.
//!
//! A line holds its address, and the network around it, as keyed hashes under the key of its month. So
//! a search asks for one hash of each month that has a key still; what was forgotten can't be asked for.

use std::{
    net::{IpAddr, Ipv4Addr},
    str::FromStr,
};

use chrono::{DateTime, Utc};
use commands::{
    Entrybook,
    keyring::{KeyringError, Month, MonthKey},
};
use ipnet::IpNet;
use projections::audit_history::{self, Filter, Sources};

use crate::problem::ApiError;

/// More hashes than these are not asked for at once.
const MOST: usize = 4_096;

/// An address, or the addresses of a network; or a network, or several that make up one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    Addresses(Vec<String>),
    /// IPv4 /24 and IPv6 /48, as lines hold them.
    Networks(Vec<String>),
}

/// Why the history can't be searched for a text as a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoPlace {
    #[error("give an address, or a network such as 192.0.2.0/24 or 2001:db8:42::/48")]
    Unreadable,
    #[error("an IPv4 network is searched for from /16 on; give a smaller part of it")]
    TooWide,
    #[error(
        "an IPv6 network is searched for from /40 to /48, and else a single address; give one of these"
    )]
    NoHash,
}

impl FromStr for Place {
    type Err = NoPlace;

    fn from_str(text: &str) -> Result<Self, NoPlace> {
        let network = match text.parse::<IpAddr>() {
            Ok(address) => IpNet::from(address.to_canonical()),
            Err(_) => text.parse::<IpNet>().map_err(|_| NoPlace::Unreadable)?.trunc(),
        };
        match (network, network.prefix_len()) {
            (IpNet::V4(network), length @ 25..=32) => {
                let first = u32::from(network.network());
                let addresses = 0..1_u32 << (32 - u32::from(length));
                let addresses = addresses.map(|n| Ipv4Addr::from(first.wrapping_add(n)));
                Ok(Self::Addresses(addresses.map(|address| address.to_string()).collect()))
            }
            (IpNet::V4(network), 16..=24) => {
                let networks = network.subnets(24).map_err(|_| NoPlace::Unreadable)?;
                Ok(Self::Networks(networks.map(|network| network.to_string()).collect()))
            }
            (IpNet::V4(_), _) => Err(NoPlace::TooWide),
            (IpNet::V6(network), 128) => Ok(Self::Addresses(vec![network.addr().to_string()])),
            (IpNet::V6(network), 40..=48) => {
                let networks = network.subnets(48).map_err(|_| NoPlace::Unreadable)?;
                Ok(Self::Networks(networks.map(|network| network.to_string()).collect()))
            }
            (IpNet::V6(_), _) => Err(NoPlace::NoHash),
        }
    }
}

impl Place {
    /// What it is under the keys of these months; nothing where that is more than can be asked for.
    fn under(&self, book: &Entrybook, months: &[MonthKey]) -> Option<Sources> {
        let keyring = book.keyring();
        let texts = match self {
            Self::Addresses(texts) | Self::Networks(texts) => texts,
        };
        if texts.len().saturating_mul(months.len()) > MOST {
            return None;
        }
        let each = months.iter().flat_map(|month| texts.iter().map(move |text| (month, text)));
        Some(match self {
            Self::Addresses(_) => Sources::Addresses(
                each.map(|(month, text)| keyring.address_index(month, text)).collect(),
            ),
            Self::Networks(_) => Sources::Networks(
                each.map(|(month, text)| keyring.network_index(month, text)).collect(),
            ),
        })
    }
}

/// How far a search for a place can see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// The first and the last month whose lines were searched; none where no month of that time has a
    /// key.
    pub months: Option<(Month, Month)>,
    /// Whether lines of an older version were passed by, which have an address and no network.
    pub left_out: bool,
}

/// Why lines could not be narrowed to a place.
#[derive(Debug, thiserror::Error)]
pub enum SourcesError {
    #[error(transparent)]
    Place(#[from] NoPlace),
    #[error(
        "that is too much to look for at once; give a shorter time or a later line to begin after, or a smaller network"
    )]
    TooMany,
    #[error(transparent)]
    Keyring(#[from] KeyringError),
}

impl From<SourcesError> for ApiError {
    fn from(error: SourcesError) -> Self {
        match error {
            SourcesError::Place(_) | SourcesError::TooMany => Self::invalid_field("address", error),
            SourcesError::Keyring(cause) => cause.into(),
        }
    }
}

/// Narrows a filter to what came from a place, and tells how far that can see. The filter's time is
/// given before.
pub async fn narrow(
    book: &Entrybook,
    text: &str,
    filter: &mut Filter,
) -> Result<Seen, SourcesError> {
    let place: Place = text.parse()?;
    let database = |cause: sqlx::Error| SourcesError::Keyring(cause.into());
    let months = match audit_history::times(book.pool()).await.map_err(database)? {
        Some((first, last)) => {
            let from: DateTime<Utc> = filter.from.map_or(first, |from| from.max(first));
            let to = filter.to.map_or(last, |to| to.min(last));
            book.keyring().months(from, to).await?
        }
        None => Vec::new(),
    };
    let sources = place.under(book, &months).ok_or(SourcesError::TooMany)?;
    let left_out = matches!(sources, Sources::Networks(_))
        && audit_history::any_without_network(book.pool(), filter).await.map_err(database)?;
    filter.sources = Some(sources);
    filter.place = Some(text.to_owned());
    let months = months.first().zip(months.last());
    Ok(Seen { months: months.map(|(first, last)| (first.month(), last.month())), left_out })
}

/// A place that is followed. It is looked for under the keys of those months of which lines are still to
/// be looked at, and each new month has its key looked for before its first line is passed by.
#[derive(Debug, Clone)]
pub struct Followed {
    text: String,
    place: Place,
    /// The months that are looked for, from the first to the last …
    months: Option<(Month, Month)>,
    /// … which are those of the lines up to this one.
    known: i64,
}

impl Followed {
    pub fn read(text: &str) -> Result<Self, NoPlace> {
        let text = text.trim();
        Ok(Self { text: text.to_owned(), place: text.parse()?, months: None, known: 0 })
    }

    /// Narrows a filter to the place, for the lines after one and up to another that the history shows.
    pub async fn narrow(
        &mut self,
        book: &Entrybook,
        (looked, reached): (i64, i64),
        filter: &mut Filter,
    ) -> Result<(), SourcesError> {
        let times = async |after: i64| {
            let times = audit_history::times_between(book.pool(), after, reached).await;
            times.map_err(|cause| SourcesError::Keyring(cause.into()))
        };
        if filter.sources.is_some() {
            let new = times(self.known.max(looked)).await?;
            let is_among = |time| {
                let month = Month::of(time);
                self.months.is_some_and(|(first, last)| first <= month && month <= last)
            };
            if new.is_none_or(|(first, last)| is_among(first) && is_among(last)) {
                self.known = self.known.max(reached);
                return Ok(());
            }
        }
        let keys = match times(looked).await? {
            Some((first, last)) => book.keyring().months(first, last).await?,
            None => Vec::new(),
        };
        filter.sources = Some(self.place.under(book, &keys).ok_or(SourcesError::TooMany)?);
        filter.place = Some(self.text.clone());
        self.months =
            keys.first().zip(keys.last()).map(|(one, other)| (one.month(), other.month()));
        self.known = reached;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(text: &str) -> Result<(bool, usize, String), NoPlace> {
        text.parse().map(|place| match place {
            Place::Addresses(all) => (false, all.len(), all.last().unwrap().clone()),
            Place::Networks(all) => (true, all.len(), all.last().unwrap().clone()),
        })
    }

    #[test]
    fn a_place_is_what_lines_hold_a_hash_of() {
        for (text, by_network, count, last) in [
            ("192.0.2.7", false, 1, "192.0.2.7"),
            ("::ffff:192.0.2.7", false, 1, "192.0.2.7"),
            ("2001:DB8:0::1", false, 1, "2001:db8::1"),
            ("192.0.2.7/32", false, 1, "192.0.2.7"),
            ("192.0.2.200/25", false, 128, "192.0.2.255"),
            ("255.255.255.254/31", false, 2, "255.255.255.255"),
            ("192.0.2.7/24", true, 1, "192.0.2.0/24"),
            ("10.1.0.0/16", true, 256, "10.1.255.0/24"),
            ("2001:db8:42::/48", true, 1, "2001:db8:42::/48"),
            ("2001:db8:4200::/40", true, 256, "2001:db8:42ff::/48"),
        ] {
            assert_eq!(place(text), Ok((by_network, count, last.to_owned())), "{text}");
        }
        for (text, why) in [
            ("", NoPlace::Unreadable),
            ("ada@example.org", NoPlace::Unreadable),
            ("192.0.2.7/33", NoPlace::Unreadable),
            ("10.0.0.0/8", NoPlace::TooWide),
            ("2001:db8:42:7::/64", NoPlace::NoHash),
            ("2001:db8::/32", NoPlace::NoHash),
        ] {
            assert_eq!(place(text), Err(why), "{text}");
        }
    }
}
