//! What the broker is told: validated settings, with the embedded defaults that `serve` runs on.

mod settings;

pub use settings::{
    Dedupe, Keep, Limits, Listen, LogFormat, LogSettings, Overflow, QueueSettings, Settings, Storage, StoreSettings,
};
