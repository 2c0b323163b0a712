//! What becomes of a record on its way up: under which channel it goes on, and what is written on it.

use super::loops::{Onward, Refusal, upstream_name};
use super::mapping::{MapError, Mapper, MapperError, Names};
use crate::config::{BridgeSettings, MappingText};
use crate::model::Record;
use crate::seal::expand_record;

/// Why a record does not go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// It is larger than the upstream takes, in bytes.
    TooLarge(usize),
    /// It is no record, or cannot be written as the upstream reads it.
    Malformed,
    /// It has no channel there.
    Channel(MapError),
    /// Its marks say that it is not to go on.
    Marks(Refusal),
}

/// What the records of a connection go through.
#[derive(Debug, Default)]
pub(super) struct Passage {
    /// Largest record the upstream takes, in bytes.
    pub(super) record_bytes_max: usize,
    /// Whether it takes compressed payloads.
    pub(super) lz4: bool,
    /// Bridges a record may have passed.
    pub(super) hops_max: u32,
    /// This edge, and its upstream, as origins.
    from: String,
    to: String,
    /// Routes of each queue that is forwarded.
    mappers: Vec<Mapper>,
    channel: String,
    properties: Vec<u8>,
}

/// The queues that are forwarded, each once, with all of their routes; and why some are left out.
pub(super) fn queues(settings: &BridgeSettings, name: &str) -> (Vec<(String, Mapper)>, Option<MapperError>) {
    let mut routes: Vec<(String, Vec<MappingText>)> = Vec::new();
    for route in settings.up_routes() {
        match routes.iter_mut().find(|(queue, _)| *queue == route.queue) {
            Some((_, mappings)) => mappings.push(route.mapping),
            None => routes.push((route.queue, vec![route.mapping])),
        }
    }
    let names = Names { name, bridge: &settings.name };
    let mut problem = None;
    let compile = |(queue, mappings): (String, Vec<MappingText>)| match Mapper::new(mappings, names) {
        Ok(mapper) => Some((queue, mapper)),
        Err(error) => {
            problem = Some(error);
            None
        }
    };
    (routes.into_iter().filter_map(compile).collect(), problem)
}

impl Passage {
    /// Of these queues, in their order, at this edge.
    pub(super) fn new(settings: &BridgeSettings, edge: &str, queues: &[(String, Mapper)]) -> Self {
        Self {
            hops_max: settings.hops_max,
            from: edge.into(),
            to: upstream_name(edge, &settings.name),
            mappers: queues.iter().map(|(_, mapper)| mapper.clone()).collect(),
            ..Self::default()
        }
    }

    /// Appends a record of the queue at `queue` as it goes on. What was appended before an error is to be cut off.
    ///
    /// # Errors
    /// [`Refused`].
    pub(super) fn pass(&mut self, queue: usize, record: &[u8], out: &mut Vec<u8>) -> Result<(), Refused> {
        let expanded = match self.lz4 {
            true => None,
            false => expand_record(record, self.record_bytes_max).map_err(|_| Refused::Malformed)?,
        };
        let record = expanded.as_deref().unwrap_or(record);
        let decoded = Record::decode(record).map_err(|_| Refused::Malformed)?;
        let mapper = self.mappers.get(queue).ok_or(Refused::Channel(MapError::NoRoute))?;
        let channel = mapper.map(decoded.channel, &mut self.channel).map_err(Refused::Channel)?;
        let (hops_max, bytes_max) = (self.hops_max, self.record_bytes_max);
        let onward = Onward { channel, from: &self.from, to: &self.to, hops_max, bytes_max };
        onward.append(&decoded, &mut self.properties, out).map_err(|refusal| match refusal {
            Refusal::Large => Refused::TooLarge(record.len()),
            other => Refused::Marks(other),
        })
    }
}
