//! Arguments to exit code.
fn main() {
    let folder = std::env::args().nth(1);
    let mut settings = tidegate::config::Settings::default();
    settings.data = folder.map(Into::into);
    let options = tidegate::daemon::Options { settings, reload: None, signals: true };
    let _ = tidegate::observe::log::init;
    tidegate::daemon::serve(options, |r, _| println!("{r:?}")).unwrap();
}
