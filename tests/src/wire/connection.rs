//! One connection through a wire.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::Notify;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::{sleep, timeout};

use super::{Act, Mode, Shared, Speech, Trap};

/// How long a server may take to answer somebody who has gone.
const LAST_ANSWER: Duration = Duration::from_secs(20);

/// What a trap in the way there wants of the way back.
enum Catch {
    /// The connection ends with the answer to this request, which is not passed on.
    Lose(u64, Arc<Trap>),
    /// The answer to this request waits until the trap is opened.
    Hold(u64, Arc<Trap>),
}

/// How one of the two ways ended.
enum End {
    /// Both ways end.
    Both,
    /// The client has gone; a request is on its way that the server still has to answer.
    ClientGone,
}

/// Passes on what both say until one of them hangs up or the wire is cut.
pub(super) async fn run(
    client: TcpStream,
    server: TcpStream,
    speech: Box<dyn Speech>,
    shared: &Shared,
) {
    let speech = Mutex::new(speech);
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let (catch, catches) = unbounded_channel();
    let mut mode = shared.mode.subscribe();
    let hang_up = Notify::new();
    let road = Road { speech: &speech, shared, hang_up: &hang_up };
    let there = there(from_client, to_server, &road, &catch);
    let back = back(from_server, to_client, &road, catches);
    let cut = async { drop(mode.wait_for(|mode| *mode == Mode::Cut).await) };
    tokio::pin!(there, back);
    let end = tokio::select! {
        () = cut => End::Both,
        end = &mut there => end,
        () = &mut back => End::Both,
    };
    if let End::ClientGone = end {
        let _ = timeout(LAST_ANSWER, back).await;
    }
}

/// What both ways share.
struct Road<'a> {
    speech: &'a Mutex<Box<dyn Speech>>,
    shared: &'a Shared,
    /// The client is to be hung up on, the server not.
    hang_up: &'a Notify,
}

impl Road<'_> {
    fn parse<T>(&self, with: impl FnOnce(&mut dyn Speech) -> T) -> T {
        with(&mut **self.speech.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits while the wire is silent, and as long as it takes.
    async fn travel(&self) {
        let mut mode = self.shared.mode.subscribe();
        let now = *mode.borrow_and_update();
        match now {
            Mode::Whole | Mode::Cut => {}
            Mode::Slow(by) => sleep(by).await,
            Mode::Silent => drop(mode.wait_for(|mode| *mode != Mode::Silent).await),
        }
    }
}

async fn there(
    mut client: OwnedReadHalf,
    mut server: OwnedWriteHalf,
    road: &Road<'_>,
    catch: &UnboundedSender<Catch>,
) -> End {
    let mut buffer = vec![0; 65_536];
    let mut was_held = false;
    loop {
        let read = match client.read(&mut buffer).await {
            Ok(read @ 1..) => read,
            // It may have gone while its request was held; the server answers all the same.
            Ok(0) if was_held => return End::ClientGone,
            _ => return End::Both,
        };
        road.travel().await;
        let mut requests = VecDeque::from(road.parse(|s| s.requests(&buffer[..read])));
        while let Some(request) = requests.pop_front() {
            let trap = road.shared.trap_for(&request.what);
            match trap.as_ref().map(|trap| trap.act) {
                None => {}
                Some(Act::Pass) => trap.iter().for_each(|trap| trap.done()),
                Some(Act::LoseRequest) => {
                    trap.iter().for_each(|trap| trap.done());
                    return End::Both;
                }
                Some(Act::LoseAnswer) => {
                    trap.into_iter().for_each(|t| drop(catch.send(Catch::Lose(request.number, t))));
                }
                Some(Act::HoldAnswer) => {
                    trap.into_iter().for_each(|t| drop(catch.send(Catch::Hold(request.number, t))));
                }
                Some(Act::Hold) => {
                    let trap = trap.expect("just looked at");
                    trap.done();
                    trap.opened().await;
                    was_held = true;
                }
                Some(Act::CutAndHold) => {
                    let trap = trap.expect("just looked at");
                    let mut held = request.bytes;
                    held.extend(requests.drain(..).flat_map(|request| request.bytes));
                    drop(client);
                    road.hang_up.notify_one();
                    trap.done();
                    trap.opened().await;
                    let sent = server.write_all(&held).await;
                    return if sent.is_ok() { End::ClientGone } else { End::Both };
                }
            }
            if server.write_all(&request.bytes).await.is_err() {
                return End::Both;
            }
        }
    }
}

async fn back(
    mut server: OwnedReadHalf,
    client: OwnedWriteHalf,
    road: &Road<'_>,
    mut catches: UnboundedReceiver<Catch>,
) {
    let mut buffer = vec![0; 65_536];
    let mut caught: Vec<Catch> = Vec::new();
    // A client that has gone is no reason not to hear the server out.
    let mut client = Some(client);
    loop {
        let read = tokio::select! {
            read = server.read(&mut buffer) => read,
            () = road.hang_up.notified() => {
                client = None;
                continue;
            }
        };
        let Ok(read @ 1..) = read else { return };
        road.travel().await;
        caught.extend(std::iter::from_fn(|| catches.try_recv().ok()));
        for answer in road.parse(|s| s.answers(&buffer[..read])) {
            let of_it = |catch: &Catch| match catch {
                Catch::Lose(number, _) | Catch::Hold(number, _) => Some(*number) == answer.ends,
            };
            match caught.iter().position(of_it).map(|at| caught.swap_remove(at)) {
                Some(Catch::Lose(_, trap)) => return trap.done(),
                Some(Catch::Hold(_, trap)) => {
                    trap.done();
                    trap.opened().await;
                }
                None => {}
            }
            if let Some(listener) = &mut client
                && listener.write_all(&answer.bytes).await.is_err()
            {
                client = None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use anyhow::Result;
    use tokio::net::TcpListener;

    use super::super::{Protocol, Wire, api};
    use super::*;

    const SOON: Duration = Duration::from_secs(20);

    /// A request that consists of its head.
    fn frame(api: i16, number: u8) -> Vec<u8> {
        let [high, low] = api.to_be_bytes();
        vec![0, 0, 0, 8, high, low, 0, 1, 0, 0, 0, number]
    }

    /// A request that was held is followed by others, some of them begun before, and they are understood again.
    #[tokio::test]
    async fn what_comes_behind_a_held_request_is_caught_too() -> Result<()> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let wire = Wire::to(listener.local_addr()?.to_string(), Protocol::Kafka)?;
        let mut client = TcpStream::connect(wire.address()).await?;
        let (mut server, _) = listener.accept().await?;
        let (first, second) = (frame(api::PRODUCE, 1), frame(api::END_TXN, 2));
        let holds = wire.trap(Act::Hold, |what| what.is_api(api::PRODUCE));
        let passes = wire.trap(Act::Pass, |what| what.is_api(api::END_TXN));
        client.write_all(&[&first[..], &second[..5]].concat()).await?;
        holds.hit(SOON).await?;
        let mut came = [0; 24];
        let early = timeout(Duration::from_millis(100), server.read(&mut came)).await;
        assert!(early.is_err(), "it is held");
        holds.open();
        client.write_all(&second[5..]).await?;
        passes.hit(SOON).await?;
        timeout(SOON, server.read_exact(&mut came)).await??;
        assert_eq!(came.to_vec(), [first, second].concat());
        Ok(())
    }
}
