//! Whether an attempt at a password is looked at: by the lane of its device, or by the guards of what it is tried on and of
//! the networks that it comes from.

use chrono::{DateTime, Utc};
use domain::{GuardSubject, SignInGuard, ThrottlePolicy, Throttled};
use tokio::sync::OwnedSemaphorePermit;

use crate::{
    Entrybook, GuardAggregate, Origin, StorageError,
    device::{Lane, lane_policy},
    keyring::KeyringError,
    origin::Network,
    sign_in::Unproved,
};

/// How an attempt was admitted, and where its failure counts. The turn ends with it.
pub(crate) struct Admitted {
    pub(crate) stream_id: String,
    pub(crate) policy: ThrottlePolicy,
    /// With their guards: none for a device in its own lane.
    pub(crate) networks: Vec<(Network, GuardSubject)>,
    pub(crate) is_lane: bool,
    _turn: Option<OwnedSemaphorePermit>,
}

impl Entrybook {
    /// Admits an attempt by the lane of its device, or by the guards of its subject and of where it comes from.
    pub(crate) async fn admit(
        &self,
        subject: &GuardSubject,
        lane: Option<Lane>,
        origin: &Origin,
    ) -> Result<Admitted, Unproved> {
        let throttle = self.settings().throttle;
        if let Some(lane) = lane {
            let _turn = self.turns().take(&lane.stream_id).await;
            if self.is_open(&lane).await? {
                let (stream_id, policy) = (lane.stream_id, lane_policy(&throttle));
                return Ok(Admitted {
                    stream_id,
                    policy,
                    networks: Vec::new(),
                    is_lane: true,
                    _turn,
                });
            }
        }
        let stream_id = subject.stream_id();
        let _turn = self.turns().take(&stream_id).await;
        self.admit_subject(subject, origin).await?;
        let networks = self.guarded_networks(origin).await?;
        for (network, guard) in &networks {
            self.admit_network(network, guard, origin).await?;
        }
        Ok(Admitted { stream_id, policy: throttle, networks, is_lane: false, _turn })
    }

    /// The networks that a request comes from, with their guards.
    async fn guarded_networks(
        &self,
        origin: &Origin,
    ) -> Result<Vec<(Network, GuardSubject)>, StorageError> {
        let mut guarded = Vec::new();
        for network in origin.networks() {
            if let Some(guard) = self.guard_of(&network).await? {
                guarded.push((network, guard));
            }
        }
        Ok(guarded)
    }

    /// The guard of a network. There is none where the month is forgotten: the clock of this machine is far behind, and
    /// what is left are the guards of accounts and names.
    pub(crate) async fn guard_of(
        &self,
        network: &Network,
    ) -> Result<Option<GuardSubject>, StorageError> {
        match self.keyring().month(self.clock().now()).await {
            Ok(month) => {
                let index = self.keyring().guard_address_index(&month, &network.name);
                Ok(Some(GuardSubject::Address(index)))
            }
            Err(KeyringError::MonthIsForgotten { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    async fn admit_subject(&self, subject: &GuardSubject, origin: &Origin) -> Result<(), Unproved> {
        let guard: SignInGuard =
            self.store().load::<GuardAggregate>(&subject.stream_id()).await?.aggregate.0;
        let now = self.clock().now();
        guard
            .admit(now)
            .map_err(|Throttled { until }| self.turned_away(subject, origin, now, until))
    }

    /// By its guard, which every replica goes by, and by the count of this one.
    async fn admit_network(
        &self,
        network: &Network,
        subject: &GuardSubject,
        origin: &Origin,
    ) -> Result<(), Unproved> {
        let guard: SignInGuard =
            self.store().load::<GuardAggregate>(&subject.stream_id()).await?.aggregate.0;
        let now = self.clock().now();
        let counted = self.address_failures().wait(network, guard.throttled_until, now);
        let posted = guard.admit(now).err().map(|Throttled { until }| until);
        match counted.max(posted) {
            Some(until) => Err(self.turned_away(subject, origin, now, until)),
            None => Ok(()),
        }
    }

    fn turned_away(
        &self,
        subject: &GuardSubject,
        origin: &Origin,
        now: DateTime<Utc>,
        until: DateTime<Utc>,
    ) -> Unproved {
        self.blocked().count(subject, origin, now);
        Unproved::Throttled { retry_after: (until - now).to_std().unwrap_or_default() }
    }
}
