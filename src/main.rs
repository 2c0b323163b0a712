//! Arguments to exit code.
fn main() {
    let args: Vec<String> = std::env::args().collect();
    if args[1] == "bench" {
        use tidegate::cli::load::*;
        let get = |i: usize, d: u64| args.get(i).and_then(|s| s.parse().ok()).unwrap_or(d);
        let load = Load {
            target: Target::Tcp("127.0.0.1:8433".parse().unwrap()),
            publishers: get(2, 8) as u32,
            window: get(3, 100) as u32,
            size: 256,
            contract: if get(6, 0) == 1 { tidegate::wire::Contract::Memory } else { tidegate::wire::Contract::Queue },
            ids: get(7, 1) == 1,
            subscribers: get(5, 0) as u32,
            consumers: get(8, 0) as u32,
            queue: "main".into(),
            channel: args.get(9).cloned().unwrap_or("bench/{n}".into()),
            count: get(4, 1_000_000),
            time: std::time::Duration::from_secs(60),
            rate: 0,
        };
        let o = run(&load, &mut |_| {}).unwrap();
        let s = o.time.as_secs_f64();
        println!(
            "acked {} in {s:.2}s = {:.0}/s; heard {} {:.0}/s dropped {} consumed {} {:.0}/s; ack p50 {} p99 {} us; deliv p50 {} p99 {}",
            o.acked,
            o.acked as f64 / s,
            o.heard,
            o.heard as f64 / s,
            o.dropped,
            o.consumed,
            o.consumed as f64 / s,
            o.ack_latency.value_at_quantile(0.5),
            o.ack_latency.value_at_quantile(0.99),
            o.delivery_latency.value_at_quantile(0.5),
            o.delivery_latency.value_at_quantile(0.99)
        );
        return;
    }
    let mut settings = tidegate::config::Settings::default();
    settings.data = args.get(1).map(Into::into);
    let options = tidegate::daemon::Options { settings, reload: None, signals: true };
    tidegate::daemon::serve(options, |r, _| println!("{r:?}")).unwrap();
}
