//! Which quota counts for whom: the quotas of metadata, ready to be looked up. Pure.
//!
//! Of all entities that match, the most specific counts, in Kafka's order: the user with the client id, the user with any
//! client id, the user; then the same with any user; then the client id, and any client id.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use seawall_metadata::command::{QuotaEntity, QuotaName, QuotaValue};

/// What a quota of users and client ids limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum QuotaKind {
    Produce,
    Fetch,
    /// Percent of one thread's time.
    Request,
    /// Partitions created and deleted.
    ControllerMutation,
}

pub const KINDS: [QuotaKind; 4] =
    [QuotaKind::Produce, QuotaKind::Fetch, QuotaKind::Request, QuotaKind::ControllerMutation];
/// The quota of IP addresses.
pub const CONNECTION_RATE: &str = "connection_creation_rate";

impl QuotaKind {
    /// The key under which clients set it.
    pub fn key(self) -> &'static str {
        match self {
            Self::Produce => "producer_byte_rate",
            Self::Fetch => "consumer_byte_rate",
            Self::Request => "request_percentage",
            Self::ControllerMutation => "controller_mutation_rate",
        }
    }
}

/// A limit, and whose use is added up against it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limit<'a> {
    pub per_second: f64,
    /// Empty where all users share it.
    pub user: &'a str,
    /// Empty where all client ids share it.
    pub client_id: &'a str,
}

/// All quotas at one moment.
#[derive(Debug, Default, PartialEq)]
pub struct QuotaTable {
    kinds: [KindTable; 4],
    ips: HashMap<IpAddr, f64>,
    any_ip: Option<f64>,
}

#[derive(Debug, Default, PartialEq)]
struct KindTable {
    users: HashMap<String, ClientTable>,
    any_user: ClientTable,
    no_user: ClientTable,
}

#[derive(Debug, Default, PartialEq)]
struct ClientTable {
    clients: HashMap<String, f64>,
    any_client: Option<f64>,
    no_client: Option<f64>,
}

impl QuotaTable {
    pub fn new(quotas: &BTreeMap<QuotaEntity, BTreeMap<String, QuotaValue>>) -> Self {
        let mut table = Self::default();
        for (entity, values) in quotas {
            if let Some(ip) = &entity.ip {
                table.add_ip(ip, values.get(CONNECTION_RATE));
                continue;
            }
            for (kind, kinds) in KINDS.iter().zip(&mut table.kinds) {
                if let Some(value) = values.get(kind.key()) {
                    kinds.add(entity, value.get());
                }
            }
        }
        table
    }

    /// The limit of a client, if it has one.
    pub fn limit<'a>(&self, kind: QuotaKind, user: &'a str, client_id: &'a str) -> Option<Limit<'a>> {
        let table = &self.kinds[kind as usize];
        let named = table.users.get(user);
        (named.and_then(|of_user| of_user.find(user, client_id)))
            .or_else(|| table.any_user.find(user, client_id))
            .or_else(|| Some(Limit { user: "", ..table.no_user.of_client(user, client_id)? }))
    }

    /// Connections per second that an address may open, if that is limited.
    pub fn connection_rate(&self, ip: IpAddr) -> Option<f64> {
        self.ips.get(&ip).copied().or(self.any_ip)
    }

    pub fn has(&self, kind: QuotaKind) -> bool {
        self.kinds[kind as usize] != KindTable::default()
    }

    fn add_ip(&mut self, ip: &QuotaName, rate: Option<&QuotaValue>) {
        let Some(rate) = rate.map(|rate| rate.get()) else { return };
        match ip {
            QuotaName::Default => self.any_ip = Some(rate),
            // Names were checked when they were set; one that is no address limits nobody.
            QuotaName::Named { name } => {
                if let Ok(ip) = name.parse::<IpAddr>() {
                    self.ips.insert(ip.to_canonical(), rate);
                }
            }
        }
    }
}

impl KindTable {
    fn add(&mut self, entity: &QuotaEntity, value: f64) {
        let of_user = match &entity.user {
            Some(QuotaName::Named { name }) => self.users.entry(name.clone()).or_default(),
            Some(QuotaName::Default) => &mut self.any_user,
            None => &mut self.no_user,
        };
        match &entity.client_id {
            Some(QuotaName::Named { name }) => _ = of_user.clients.insert(name.clone(), value),
            Some(QuotaName::Default) => of_user.any_client = Some(value),
            None => of_user.no_client = Some(value),
        }
    }
}

impl ClientTable {
    fn find<'a>(&self, user: &'a str, client_id: &'a str) -> Option<Limit<'a>> {
        let of_user = || Some(Limit { per_second: self.no_client?, user, client_id: "" });
        self.of_client(user, client_id).or_else(of_user)
    }

    /// A client without an id is limited by its user alone.
    fn of_client<'a>(&self, user: &'a str, client_id: &'a str) -> Option<Limit<'a>> {
        let per_second = self.clients.get(client_id).copied().or(self.any_client)?;
        (!client_id.is_empty()).then_some(Limit { per_second, user, client_id })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Option<QuotaName> {
        match text {
            "-" => None,
            "*" => Some(QuotaName::Default),
            name => Some(QuotaName::Named { name: name.into() }),
        }
    }

    fn table(entries: &[(&str, &str, f64)]) -> QuotaTable {
        let entry = |(user, client_id, value): &(&str, &str, f64)| {
            let entity = QuotaEntity { user: name(user), client_id: name(client_id), ip: None };
            (entity, BTreeMap::from([("producer_byte_rate".to_owned(), QuotaValue::new(*value).unwrap())]))
        };
        QuotaTable::new(&entries.iter().map(entry).collect())
    }

    #[test]
    fn the_most_specific_quota_counts_in_kafkas_order() {
        let order = [
            ("ann", "app", 1.0),
            ("ann", "*", 2.0),
            ("ann", "-", 3.0),
            ("*", "app", 4.0),
            ("*", "*", 5.0),
            ("*", "-", 6.0),
            ("-", "app", 7.0),
            ("-", "*", 8.0),
        ];
        for first in 0..order.len() {
            let table = table(&order[first..]);
            let limit = table.limit(QuotaKind::Produce, "ann", "app").unwrap();
            assert_eq!(limit.per_second, order[first].2, "from {:?} on", order[first]);
            let shared = match order[first] {
                (_, "-", _) => ("ann", ""),
                ("-", _, _) => ("", "app"),
                _ => ("ann", "app"),
            };
            assert_eq!((limit.user, limit.client_id), shared, "whose use is added up");
        }
        let all = table(&order);
        assert_eq!(all.limit(QuotaKind::Produce, "bob", "other").unwrap().per_second, 5.0);
        assert_eq!(all.limit(QuotaKind::Produce, "bob", "").unwrap().per_second, 6.0);
        assert_eq!(all.limit(QuotaKind::Fetch, "ann", "app"), None);
        assert!(all.has(QuotaKind::Produce) && !all.has(QuotaKind::Fetch));
    }

    #[test]
    fn an_address_has_its_own_rate_or_that_of_all() {
        let entity = |ip| QuotaEntity { ip: name(ip), ..Default::default() };
        let rate = |value| BTreeMap::from([(CONNECTION_RATE.to_owned(), QuotaValue::new(value).unwrap())]);
        let mut quotas = BTreeMap::from([(entity("10.0.0.1"), rate(5.0))]);
        let own: IpAddr = "10.0.0.1".parse().unwrap();
        let other: IpAddr = "::1".parse().unwrap();
        let table = QuotaTable::new(&quotas);
        assert_eq!((table.connection_rate(own), table.connection_rate(other)), (Some(5.0), None));
        quotas.insert(entity("*"), rate(7.0));
        let table = QuotaTable::new(&quotas);
        assert_eq!((table.connection_rate(own), table.connection_rate(other)), (Some(5.0), Some(7.0)));
    }
}
