//! Who asks, and from where: in the clear in this process only, sealed into each event's metadata.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use chrono::{DateTime, Utc};
use domain::{Actor, Metadata, SealedSource, UserId};
use serde::{Deserialize, Serialize};

use crate::keyring::{Keyring, KeyringError, MonthKey, PersonKey, SealingKey};

/// Who does it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum By {
    /// Nobody known yet.
    Anonymous,
    User(UserId),
    System,
    /// The command line.
    Cli {
        os_user: String,
    },
}

/// Where a request comes from.
#[derive(Clone, PartialEq, Eq)]
pub struct Origin {
    pub by: By,
    pub address: Option<IpAddr>,
    pub user_agent: Option<String>,
    pub request_id: String,
}

impl std::fmt::Debug for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Origin").field("request_id", &self.request_id).finish_non_exhaustive()
    }
}

/// How many networks of different widths an address is counted for at most.
pub(crate) const WIDTHS: usize = 3;

/// A network that failures are counted for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Network {
    pub(crate) name: String,
    /// 0 is the narrowest.
    pub(crate) width: usize,
    /// It has the limits of so many of the narrowest.
    pub(crate) share: u32,
}

/// A source as it is sealed, and as it is read again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_agent: Option<String>,
}

/// Where the sealed user of a CLI act stands.
pub const CLI_ACTOR: &str = "cli/actor";

impl Origin {
    /// An act of Entrybook itself.
    #[must_use]
    pub fn system(request_id: String) -> Self {
        Self { by: By::System, address: None, user_agent: None, request_id }
    }

    /// The same request, now that its sender is known.
    #[must_use]
    pub fn with(&self, by: By) -> Self {
        Self { by, ..self.clone() }
    }

    /// The narrowest of [`networks`](Self::networks), by which what people do is counted.
    pub(crate) fn narrowest_network(&self) -> Option<IpAddr> {
        self.address.map(|address| match address.to_canonical() {
            IpAddr::V6(v6) => IpAddr::V6(within(v6, 64)),
            v4 @ IpAddr::V4(_) => v4,
        })
    }

    /// The networks that it is counted for, narrow ones first: of IPv6 the /64, the least that a site has (RFC 6177), and
    /// the /56 and /48 that one customer commonly has (RIPE-690, 4.2); of IPv4 the address and its /24, the least that is
    /// routed on its own. An IPv4 address written as IPv6 is one of IPv4.
    #[must_use]
    pub(crate) fn networks(&self) -> Vec<Network> {
        match self.address.map(|address| address.to_canonical()) {
            None => Vec::new(),
            Some(IpAddr::V4(v4)) => {
                let wide = Ipv4Addr::from(u32::from(v4) & !0xff);
                vec![
                    Network { name: v4.to_string(), width: 0, share: 1 },
                    Network { name: format!("{wide}/24"), width: 1, share: 16 },
                ]
            }
            Some(IpAddr::V6(v6)) => {
                let of = |bits| within(v6, bits);
                vec![
                    // Written as it was when there was one alone, so that its throttles stand.
                    Network { name: of(64).to_string(), width: 0, share: 1 },
                    Network { name: format!("{}/56", of(56)), width: 1, share: 4 },
                    Network { name: format!("{}/48", of(48)), width: 2, share: 16 },
                ]
            }
        }
    }

    /// The metadata of an event on a stream. `person` is the key of whom the event is about, where
    /// that is known. The source is sealed under the key of whose it is and the month's: erasing the
    /// person makes it unreadable, and so does the end of the month's retention.
    pub(crate) async fn seal(
        &self,
        keyring: &Keyring,
        stream: (&str, &str),
        person: Option<&PersonKey>,
        at: DateTime<Utc>,
    ) -> Result<HashMap<String, String>, KeyringError> {
        let actor = match &self.by {
            By::Anonymous => Actor::Anonymous,
            By::User(id) => Actor::User(*id),
            By::System => Actor::System,
            By::Cli { os_user } => {
                Actor::Cli(keyring.seal(&keyring.operators(), CLI_ACTOR, os_user.as_bytes()))
            }
        };
        let source = if self.address.is_none() && self.user_agent.is_none() {
            None
        } else if let Some((month, key)) = self.source_key(keyring, person, at).await? {
            let address = self
                .address
                .unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED))
                .to_canonical()
                .to_string();
            let source = Source {
                address: self.address.map(|address| address.to_canonical().to_string()),
                user_agent: self.user_agent.clone(),
            };
            let plain = serde_json::to_vec(&source).unwrap_or_default();
            let place = source_place(stream.0, stream.1);
            Some(SealedSource {
                sealed: keyring.seal(&key, &place, &plain),
                address: keyring.address_index(&month, &address),
                network: self
                    .address
                    .map(|address| keyring.network_index(&month, &network_around(address))),
            })
        } else {
            None
        };
        Ok(Metadata { actor, source, request_id: self.request_id.clone(), at }.to_map())
    }

    /// The month's key, and what the source is sealed under. It is that of who acts: an admin's address
    /// on somebody else's stream goes with the admin. Where nobody is known to act, it may well be whom
    /// the event is about. Nothing if one of the keys was destroyed: then the source is not kept.
    async fn source_key(
        &self,
        keyring: &Keyring,
        person: Option<&PersonKey>,
        at: DateTime<Utc>,
    ) -> Result<Option<(MonthKey, SealingKey)>, KeyringError> {
        let month = match keyring.month(at).await {
            Err(KeyringError::MonthIsForgotten { .. }) => return Ok(None),
            month => month?,
        };
        let key = match (&self.by, person) {
            (By::User(actor), person) if person.is_none_or(|person| person.user() != *actor) => {
                let Some(actor) = keyring.person(*actor).await? else { return Ok(None) };
                keyring.both(&actor, &month)
            }
            (_, Some(person)) => keyring.both(person, &month),
            (_, None) => (*month).clone(),
        };
        Ok(Some((month, key)))
    }
}

/// The network that an address is found by beside itself: an IPv4 /24 or an IPv6 /48.
///
/// One hash finds one network alone, so a size must be chosen when the event is written. A /24 is the
/// least that is routed on its own, and a /48 what one site is given (RFC 6177); wider networks are a
/// few of them, and narrower ones of IPv4 a few addresses.
pub(crate) fn network_around(address: IpAddr) -> String {
    match address.to_canonical() {
        IpAddr::V4(v4) => format!("{}/24", Ipv4Addr::from(u32::from(v4) & (u32::MAX << 8))),
        IpAddr::V6(v6) => format!("{}/48", within(v6, 48)),
    }
}

/// The network of this many bits that an address is in.
fn within(address: Ipv6Addr, bits: u32) -> Ipv6Addr {
    Ipv6Addr::from(u128::from(address) & (u128::MAX << (128 - bits)))
}

/// Where the sealed source of an event stands.
#[must_use]
pub fn source_place(aggregate_type: &str, aggregate_id: &str) -> String {
    format!("{aggregate_type}/{aggregate_id}/source")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_found_by_the_network_around_it() {
        for (address, network) in [
            ("192.0.2.7", "192.0.2.0/24"),
            ("::ffff:192.0.2.255", "192.0.2.0/24"),
            ("2001:db8:42:7::1", "2001:db8:42::/48"),
            ("::1", "::/48"),
        ] {
            assert_eq!(network_around(address.parse().unwrap()), network);
        }
    }

    #[test]
    fn addresses_are_counted_for_networks_of_several_widths() {
        let networks = |address: &str| {
            let address = address.parse().ok();
            let origin = Origin { address, ..Origin::system(String::new()) };
            origin.networks().into_iter().map(|network| network.name).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(networks("192.0.2.7"), "192.0.2.7 192.0.2.0/24");
        assert_eq!(networks("::ffff:192.0.2.7"), "192.0.2.7 192.0.2.0/24");
        assert_eq!(
            networks("2001:db8:1:fff2:3:4:5:6"),
            "2001:db8:1:fff2:: 2001:db8:1:ff00::/56 2001:db8:1::/48"
        );
    }
}
