//! New settings while running: what takes effect, what waits for a restart, said in the log.

use super::Reload;
use crate::config::{Settings, diff, reloadable};
use crate::observe::log as logging;

/// Loads the settings again; `None` when that failed or nothing changed that can.
pub(super) fn reload(running: &Settings, load: &mut Reload) -> Option<Settings> {
    let mut loaded = match load() {
        Ok(loaded) => loaded,
        Err(error) => {
            log::error!("the configuration was not reloaded, the old one stays in force: {error}");
            return None;
        }
    };
    if loaded.data.is_none() {
        // What the environment decided at start stays decided.
        loaded.data.clone_from(&running.data);
    }
    let changes = diff(running, &loaded);
    for change in &changes {
        if change.reloadable {
            log::info!("reload: {change}");
        } else {
            log::warn!("reload: {change}");
        }
    }
    if !changes.iter().any(|change| change.reloadable) {
        log::info!("reload: nothing changes now");
        return None;
    }
    let settings = reloadable(running, &loaded);
    logging::apply(&settings.log);
    Some(settings)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::QueueSettings;

    #[test]
    fn what_cannot_change_stays_and_the_rest_takes_effect() {
        let running = Settings { data: Some("here".into()), ..Settings::default() };
        let mut loaded = Settings { data: Some("elsewhere".into()), ..Settings::default() };
        loaded.listen.tcp.clear();
        loaded.limits.heartbeat_ms = 1_000;
        loaded.queues.push(QueueSettings { capture: vec!["more".into()], ..QueueSettings::new("more") });
        let mut load: Reload = Box::new(move || Ok(loaded.clone()));
        let settings = reload(&running, &mut load).expect("something changes");
        assert_eq!((&settings.data, &settings.listen), (&running.data, &running.listen));
        assert_eq!((settings.limits.heartbeat_ms, settings.queues.len()), (1_000, 2));
    }

    #[test]
    fn a_bad_file_or_an_equal_one_leaves_the_old_settings() {
        let mut load: Reload = Box::new(|| Err("line 3: no such key".into()));
        assert_eq!(reload(&Settings::default(), &mut load), None);
        let mut same: Reload = Box::new(|| Ok(Settings::default()));
        let running = Settings { data: Some("here".into()), ..Settings::default() };
        assert_eq!(reload(&running, &mut same), None);
    }
}
