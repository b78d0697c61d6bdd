//! Starts child processes from one thread that lives as long as the test process.
//!
//! Every server asks the kernel to be killed when its parent dies. The kernel means the parent *thread*, and the
//! threads of a test come and go with it; a server shared between tests must outlive the test that started it.

use std::io;
use std::process::{Child, Command};
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

type Order = (Command, Sender<io::Result<Child>>);

/// Spawns the command from the supervising thread.
pub(crate) fn spawn(command: Command) -> io::Result<Child> {
    static ORDERS: OnceLock<Sender<Order>> = OnceLock::new();
    let orders = ORDERS.get_or_init(|| {
        let (send, receive) = channel();
        thread::Builder::new()
            .name("servers".into())
            .spawn(move || serve(&receive))
            .expect("a test process can start a thread");
        send
    });
    let (answer, child) = channel();
    orders.send((command, answer)).expect("the supervising thread never ends");
    child.recv().expect("the supervising thread answers every order")
}

fn serve(orders: &Receiver<Order>) {
    for (mut command, answer) in orders {
        // Nobody to tell means that the test has panicked meanwhile: then the child is not wanted either.
        if let Err(unheard) = answer.send(command.spawn())
            && let Ok(mut child) = unheard.0
        {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
