//! What a TLS handshake costs the broker: full and resumed, in CPU time of its own side alone.
//!
//! `cargo bench --bench tls` measures; under `cargo test` each runs once.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, missing_docs)]

use criterion::{Criterion, criterion_group, criterion_main};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, HandshakeKind, RootCertStore, SupportedProtocolVersion};
use smol::io::{AsyncRead, AsyncWrite};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::Future;
use std::io::{self, Read, Write};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};
use tidegate::auth::Secret;
use tidegate::config::ClientCertificates;
use tidegate::model::Wall;
use tidegate::transport::{Inside, Material, Named, Source, Tls};

/// The broker's end of a pipe: what it reads, and what it wrote.
#[derive(Clone, Default)]
struct End(Rc<RefCell<(VecDeque<u8>, VecDeque<u8>)>>);

impl AsyncRead for End {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        match self.0.borrow_mut().0.read(buffer)? {
            0 => Poll::Pending,
            n => Poll::Ready(Ok(n)),
        }
    }
}

impl AsyncWrite for End {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(self.0.borrow_mut().1.write(bytes))
    }
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

struct World {
    tls: Tls,
    roots: RootCertStore,
    client: Option<(rcgen::Certificate, rcgen::KeyPair)>,
}

impl World {
    fn new(asks: bool) -> Self {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
        let mut params = rcgen::CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let ca = rcgen::CertifiedIssuer::self_signed(params, rcgen::KeyPair::generate().unwrap()).unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        let client = rcgen::CertificateParams::default().signed_by(&key, &ca).unwrap();
        let named = |bytes: String| Named { name: "bench".into(), bytes: bytes.into_bytes() };
        let mut source = Source::default();
        let secret = Named { name: "bench".into(), bytes: Secret::new(made.signing_key.serialize_pem().into_bytes()) };
        source.certificates.push((named(made.cert.pem()), secret));
        if asks {
            source.client_ca.push(named(ca.pem()));
            source.client_certificates = ClientCertificates::Required;
        }
        let mut roots = RootCertStore::empty();
        roots.add(made.cert.der().clone()).unwrap();
        let tls = Tls::new(Material::new(source, Wall(1_700_000_000_000)).unwrap());
        Self { tls, roots, client: asks.then_some((client, key)) }
    }

    fn config(&self, version: &'static SupportedProtocolVersion) -> Arc<ClientConfig> {
        let builder = ClientConfig::builder_with_provider(tidegate::tls::provider())
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(self.roots.clone());
        Arc::new(match &self.client {
            Some((certificate, key)) => builder
                .with_client_auth_cert(vec![certificate.der().clone()], key.serialize_der().try_into().unwrap())
                .unwrap(),
            None => builder.with_no_client_auth(),
        })
    }

    /// One handshake: the time the broker's side took, and what kind it was.
    fn shake(&self, config: &Arc<ClientConfig>) -> (Duration, Option<HandshakeKind>) {
        let pipe = End::default();
        let name = ServerName::try_from("localhost").unwrap();
        let mut client = ClientConnection::new(Arc::clone(config), name).unwrap();
        let mut taken = Duration::ZERO;
        let mut cx = Context::from_waker(Waker::noop());
        let started = Instant::now();
        let mut accept = Box::pin(self.tls.accept(Box::new(pipe.clone()), Inside::Frames));
        taken += started.elapsed();
        loop {
            while client.wants_write() {
                client.write_tls(&mut pipe.0.borrow_mut().0).unwrap();
            }
            let started = Instant::now();
            let polled = accept.as_mut().poll(&mut cx);
            taken += started.elapsed();
            while !pipe.0.borrow().1.is_empty() {
                client.read_tls(&mut pipe.0.borrow_mut().1).unwrap();
                client.process_new_packets().unwrap();
            }
            if let Poll::Ready(done) = polled {
                done.unwrap();
                return (taken, client.handshake_kind());
            }
        }
    }
}

fn handshakes(c: &mut Criterion) {
    let mut group = c.benchmark_group("tls handshake, the broker's side");
    for (who, asks) in [("", false), (" with a client certificate", true)] {
        let world = World::new(asks);
        for (what, version) in [("1.3", &rustls::version::TLS13), ("1.2", &rustls::version::TLS12)] {
            group.bench_function(format!("full {what}{who}"), |b| {
                b.iter_custom(|times| {
                    (0..times)
                        .map(|_| {
                            // A client without memory.
                            let (taken, kind) = world.shake(&world.config(version));
                            assert_eq!(kind, Some(HandshakeKind::Full));
                            taken
                        })
                        .sum()
                });
            });
            let config = world.config(version);
            world.shake(&config);
            group.bench_function(format!("resumed {what}{who}"), |b| {
                b.iter_custom(|times| {
                    (0..times)
                        .map(|_| {
                            let (taken, kind) = world.shake(&config);
                            assert_eq!(kind, Some(HandshakeKind::Resumed));
                            taken
                        })
                        .sum()
                });
            });
        }
    }
    group.finish();
}

criterion_group!(benches, handshakes);
criterion_main!(benches);
