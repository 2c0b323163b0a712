//! A received message as one line: for people, raw, or as JSON.

use super::exit::CliError;
use super::output;
use crate::client::Incoming;
use crate::model::admin::Payload;
use crate::model::{Property, tag};
use crate::seal::KeyId;
use serde_json::{Map, Value, json};

/// How messages are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// Channel and payload.
    Text,
    /// The payload alone.
    Raw,
    /// Everything.
    Json,
}

impl Form {
    pub(super) fn pick(json: bool, raw: bool) -> Self {
        match (json, raw) {
            (true, _) => Self::Json,
            (_, true) => Self::Raw,
            _ => Self::Text,
        }
    }

    /// Prints one message.
    pub(super) fn print(self, message: &Incoming) -> Result<(), CliError> {
        let record = message.record();
        match self {
            Self::Json => output::json(&as_json(message)),
            Self::Raw => output::line(record.payload),
            Self::Text => {
                let mut text = record.channel.as_str().as_bytes().to_vec();
                text.push(b' ');
                match Payload::from_bytes(record.payload) {
                    Payload::Text(_) => text.extend_from_slice(record.payload),
                    Payload::Base64(coded) => text.extend_from_slice(format!("base64:{coded}").as_bytes()),
                }
                if message.redelivered {
                    text.extend_from_slice(format!(" (attempt {})", message.attempt).as_bytes());
                }
                output::line(text)
            }
        }
    }
}

/// Everything of a message; what is not set is left out.
pub(super) fn as_json(message: &Incoming) -> Value {
    let record = message.record();
    let mut object = Map::new();
    let mut set = |key: &str, value: Value| drop(object.insert(key.into(), value));
    set("channel", json!(record.channel.as_str()));
    match Payload::from_bytes(record.payload) {
        Payload::Text(text) => set("text", json!(text)),
        Payload::Base64(coded) => set("base64", json!(coded)),
    }
    if !record.id.is_none() {
        set("id", json!(record.id.to_string()));
    }
    set("priority", json!(record.priority.get()));
    set("time_ms", json!(record.time_ms));
    set("stored_ms", json!(message.stored_ms));
    if message.seq > 0 {
        // As text: an epoch has 64 bits, more than a number of JavaScript holds.
        set("epoch", json!(format!("{:016x}", message.epoch)));
        set("lane", json!(message.lane));
        set("seq", json!(message.seq));
    }
    if let Some(offset) = message.offset {
        set("offset", json!(offset));
    }
    if message.attempt > 1 || message.redelivered {
        set("attempt", json!(message.attempt));
        set("redelivered", json!(message.redelivered));
    }
    for (key, flag) in [("retained", message.retained), ("history", message.history)] {
        if flag {
            set(key, json!(true));
        }
    }
    let properties: Map<String, Value> = record.properties.iter().map(property).collect();
    if !properties.is_empty() {
        set("properties", properties.into());
    }
    object.into()
}

/// A property by name; the user's own by their key.
fn property(property: Property<'_>) -> (String, Value) {
    let text = |bytes: &[u8]| json!(Payload::from_bytes(bytes).as_str());
    let name = match property.tag {
        tag::USER => {
            return match postcard::take_from_bytes::<&str>(property.value) {
                Ok((key, value)) => (key.into(), text(value)),
                Err(_) => ("user".into(), text(property.value)),
            };
        }
        tag::CONTENT_TYPE => "content-type",
        tag::CORRELATION => "correlation",
        tag::REPLY_TO => "reply-to",
        tag::ORDERING_KEY => "ordering-key",
        tag::ORIGIN => "origin",
        tag::SIGNATURE => "signature",
        tag::SEAL => "seal",
        tag::DEAD_REASON => "dead-reason",
        tag::DEAD_QUEUE => "dead-queue",
        tag::SIGNER => {
            let id = property.value.try_into().map(|id| KeyId(id).to_string());
            return ("signer".into(), json!(id.unwrap_or_default()));
        }
        tag::HOPS => return ("hops".into(), json!(property.value.first())),
        tag::DEAD_ATTEMPTS => {
            let attempts = std::str::from_utf8(property.value).ok().and_then(|text| text.parse::<u32>().ok());
            return ("dead-attempts".into(), json!(attempts));
        }
        other => return (format!("tag-{other}"), text(property.value)),
    };
    (name.into(), text(property.value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn properties_are_shown_as_the_broker_and_publishers_write_them() {
        let shown = |tag, value: &[u8]| property(Property { tag, value });
        assert_eq!(shown(tag::DEAD_ATTEMPTS, b"12"), ("dead-attempts".into(), json!(12)));
        assert_eq!(shown(tag::SIGNER, &[0xab; 8]), ("signer".into(), json!("abababababababab")));
        assert_eq!(shown(tag::USER, b"\x01kv"), ("k".into(), json!("v")));
    }
}
