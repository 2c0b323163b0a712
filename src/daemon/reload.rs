//! New settings while running: what takes effect, what waits for a restart, said in the log.

use super::Reload;
use crate::config::Settings;

/// Loads the settings again; `None` when that failed or nothing changed that can.
pub(super) fn reload(running: &Settings, load: &mut Reload) -> Option<Settings> {
    let loaded = match load() {
        Ok(loaded) => loaded,
        Err(error) => {
            log::error!("the configuration was not reloaded, the old one stays in force: {error}");
            return None;
        }
    };
    let (settings, waits) = merge(running, loaded);
    for name in waits {
        log::warn!("reload: {name} changed and takes effect at the next start");
    }
    let changes = changes(running, &settings);
    if changes.is_empty() {
        log::info!("reload: nothing to change");
        return None;
    }
    log::set_max_level(settings.log.level);
    log::info!("reload: changed {}", changes.join(", "));
    Some(settings)
}

/// What was loaded, with what cannot change put back, and the names of those.
fn merge(running: &Settings, mut loaded: Settings) -> (Settings, Vec<&'static str>) {
    let mut waits = Vec::new();
    let mut keep = |name, differs: bool| {
        if differs {
            waits.push(name);
        }
    };
    keep("data", loaded.data != running.data);
    keep("listen", loaded.listen != running.listen);
    keep("store.cache_bytes", loaded.store.cache_bytes != running.store.cache_bytes);
    keep("log.format", loaded.log.format != running.log.format);
    loaded.data.clone_from(&running.data);
    loaded.listen.clone_from(&running.listen);
    loaded.store.cache_bytes = running.store.cache_bytes;
    loaded.log.format = running.log.format;
    (loaded, waits)
}

fn changes(old: &Settings, new: &Settings) -> Vec<String> {
    let mut names = Vec::new();
    let mut note = |differs: bool, name: &str| {
        if differs {
            names.push(name.to_owned());
        }
    };
    note(old.name != new.name, "name");
    note(old.limits != new.limits, "limits");
    note(old.store != new.store, "store");
    note(old.log != new.log, "log");
    for queue in &new.queues {
        match old.queues.iter().find(|q| q.name == queue.name) {
            None => names.push(format!("queue {} (new)", queue.name)),
            Some(before) if before != queue => names.push(format!("queue {}", queue.name)),
            Some(_) => {}
        }
    }
    for queue in &old.queues {
        if !new.queues.iter().any(|q| q.name == queue.name) {
            names.push(format!("queue {} (gone)", queue.name));
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::QueueSettings;

    #[test]
    fn what_cannot_change_stays_and_is_named() {
        let running = Settings::default();
        let mut loaded = Settings { data: Some("elsewhere".into()), ..Settings::default() };
        loaded.listen.tcp.clear();
        loaded.limits.heartbeat_ms = 1_000;
        loaded.queues.push(QueueSettings::new("more"));
        let (settings, waits) = merge(&running, loaded);
        assert_eq!(waits, ["data", "listen"]);
        assert_eq!((&settings.data, &settings.listen), (&running.data, &running.listen));
        assert_eq!(changes(&running, &settings), ["limits", "queue more (new)"]);
        assert_eq!(changes(&settings, &running), ["limits", "queue more (gone)"]);
    }

    #[test]
    fn a_bad_file_leaves_the_old_settings() {
        let mut load: Reload = Box::new(|| Err("line 3: no such key".into()));
        assert_eq!(reload(&Settings::default(), &mut load), None);
        let mut same: Reload = Box::new(|| Ok(Settings::default()));
        assert_eq!(reload(&Settings::default(), &mut same), None);
    }
}
