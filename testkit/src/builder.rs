use std::marker::PhantomData;
use std::ops::Deref;
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::fault::{Fault, Rule, When};
use crate::server::{Behaviour, Handler, Server};

/// A server that is being set up: what it serves (`H`), and how badly.
#[derive(Debug)]
pub struct ServerBuilder<H> {
    pub(crate) handler: H,
    behaviour: Behaviour,
    listen: String,
}

impl<H> ServerBuilder<H> {
    pub(crate) fn new(handler: H) -> Self {
        Self {
            handler,
            behaviour: Behaviour::default(),
            listen: "127.0.0.1:0".to_owned(),
        }
    }

    /// Adds a fault; of several that strike one request the first wins.
    #[must_use]
    pub fn fault(mut self, when: When, fault: Fault) -> Self {
        self.behaviour.rules.push(Rule::new(when, fault));
        self
    }

    /// Waits so long before each answer.
    #[must_use]
    pub fn latency(mut self, latency: Duration) -> Self {
        self.behaviour.latency = latency;
        self
    }

    /// Sends at most so many bytes a second, all connections together.
    #[must_use]
    pub fn bandwidth(mut self, bytes_a_second: u64) -> Self {
        self.behaviour.bandwidth = Some(bytes_a_second.max(1));
        self
    }

    /// Lets [`Server::assert_strict`] check that no object was fetched twice.
    #[must_use]
    pub fn strict(mut self) -> Self {
        self.behaviour.strict = true;
        self
    }

    /// Listens there instead of on a free port of 127.0.0.1.
    #[must_use]
    pub fn listen(self, address: &str) -> Self {
        Self {
            listen: address.to_owned(),
            ..self
        }
    }
}

impl<H: Handler> ServerBuilder<H> {
    /// Starts to serve.
    ///
    /// # Errors
    /// If the address cannot be listened on.
    pub fn start(self) -> Result<Running<H>> {
        let server = Server::start(Box::new(self.handler), self.behaviour, &self.listen)
            .with_context(|| format!("cannot listen on {}", self.listen))?;
        Ok(Running {
            server,
            kind: PhantomData,
        })
    }
}

/// A running server of a kind; stops when dropped.
#[derive(Debug)]
pub struct Running<H> {
    server: Server,
    kind: PhantomData<H>,
}

impl<H> Deref for Running<H> {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.server
    }
}
