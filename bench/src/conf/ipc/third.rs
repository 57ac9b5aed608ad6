//! Sender and receiver on two CPUs, and a third CPU that cancels, deletes and moves them (ref 4.4, 5.7; l4-smp 8.5 to 8.7).
//!
//! The sender lives at the test's place, the receiver on yet another CPU, the runner is the third.

use crate::harness::puppet::Op;
use crate::harness::{Ctx, IpcCmd, Outcome, Puppet, PuppetOptions, TestResult, ctx, ids};
use crate::{check, check_eq, need, tests};
use l4abi::exregs::Control;
use libl4::sys::{self, Exregs, Schedule};
use libl4::{CpuId, IpcCode, Phase, ThreadId, Time, thread};

tests! {
    third_cancels_polling_sender, ThirdCpu, "a sender that is queued on another CPU is cancelled by a third, and is queued no more";
    third_cancels_waiting_receiver, ThirdCpu, "a receiver that waits for a thread of another CPU is cancelled by a third";
    third_cancels_waiting_caller, ThirdCpu, "a caller that waits for the reply on the server's CPU is cancelled by a third";
    third_cancels_at_any_moment, ThirdCpu, "calls cancelled without waiting for any state: both partners agree on what happened";
    third_deletes_receiver_of_queued, ThirdCpu, "deleting a receiver fails a sender of another CPU with code 2";
    third_deletes_queued_sender, ThirdCpu, "a queued sender of another CPU is deleted: nobody receives anything";
    third_deletes_waiting_caller, ThirdCpu, "a caller that waits on the server's CPU is deleted: the reply fails with code 2";
    third_deletes_server, ThirdCpu, "a server is deleted while a caller of another CPU waits for it: the caller can be cancelled";
    third_deletes_waiting_receiver, ThirdCpu, "a receiver that waits for a thread of another CPU is deleted: the send fails with code 2";
    third_deletes_receiver_at_any_moment, ThirdCpu, "a receiver is deleted while a sender of another CPU is on its way to it";
    third_deletes_sender_at_any_moment, ThirdCpu, "a sender is deleted on its way to another CPU: the receiver goes on";
    third_moves_queued_sender, ThirdCpu, "a queued sender is moved to a third CPU: its message arrives, its processor number is right";
    third_moves_receiver_of_queued, ThirdCpu, "a receiver is moved with a sender queued at it: the message arrives";
    third_moves_waiting_caller, ThirdCpu, "a caller is moved while it waits on the server's CPU: the reply finds it";
    third_stays_and_is_told, ThirdCpu, "the option not to cross tells the number of the CPU to which the partner has been moved";
    third_speaks_for_another, ThirdCpu, "a message in the name of a thread of a third CPU, whose reply goes there";
    third_speaks_for_one_who_was_moved, ThirdCpu, "the same when the forwarder has been moved away from the waiting client";
}

/// A sender at the test's place and a receiver on a third CPU.
fn pair(ctx: &mut Ctx) -> TestResult<(Puppet, Puppet)> {
    Ok((ctx.puppet()?, ctx.puppet_on_third()?))
}

fn abort(partner: &Puppet, control: Control) -> TestResult {
    need!(sys::exchange_registers(partner.id, Exregs { control, ..Exregs::default() }));
    Ok(())
}

/// The first abort may come before the IPC has begun, which it does not hinder then.
fn abort_until_done(partner: &Puppet, control: Control) -> TestResult {
    for _ in 0..1_000 {
        abort(partner, control)?;
        if partner.is_done() {
            return Ok(());
        }
        libl4::time::sleep_us(500);
    }
    Err(crate::harness::fail(line!(), format_args!("cannot be aborted")))
}

fn move_to(id: ThreadId, cpu: CpuId) -> TestResult {
    need!(sys::schedule(id, Schedule { processor: Some(cpu), ..Schedule::default() }));
    Ok(())
}

fn error_of(got: &Outcome) -> Option<(Phase, IpcCode)> {
    got.ipc_error().map(|e| (e.phase, e.code))
}

/// `receiver` gets what is queued at it, without waiting.
fn what_is_queued(receiver: &Puppet) -> TestResult<Outcome> {
    receiver.run_ipc(&IpcCmd::receive(ThreadId::ANY).timeouts(Time::NEVER, Time::ZERO))
}

/// `sender` has called `receiver`, which has the request: the caller waits.
fn called(ctx: &Ctx, sender: &Puppet, receiver: &Puppet, word: u64) -> TestResult {
    sender.start_ipc(&IpcCmd::call(receiver.id).words(1, &[word]))?;
    let got = receiver.run_ipc(&IpcCmd::receive(sender.id))?;
    check_eq!((error_of(&got), got.mr[1]), (None, word), "the request");
    ctx.settle_all();
    Ok(())
}

fn reply(receiver: &Puppet, to: ThreadId, word: u64) -> TestResult<Outcome> {
    receiver.run_ipc(&IpcCmd::send(to).words(2, &[word]).timeouts(Time::ZERO, Time::NEVER))
}

fn third_cancels_polling_sender(ctx: &mut Ctx) -> TestResult {
    let (sender, receiver) = pair(ctx)?;
    sender.start_ipc(&IpcCmd::send(receiver.id).words(1, &[1]))?;
    ctx.settle_all();
    abort(&sender, Control::SEND)?;
    check_eq!(error_of(&sender.finish()?), Some((Phase::Send, IpcCode::Canceled)));
    let none = what_is_queued(&receiver)?;
    check_eq!(error_of(&none), Some((Phase::Receive, IpcCode::Timeout)), "queued still");
    Ok(())
}

fn third_cancels_waiting_receiver(ctx: &mut Ctx) -> TestResult {
    let (sender, receiver) = pair(ctx)?;
    receiver.start_ipc(&IpcCmd::receive(sender.id))?;
    ctx.settle_all();
    abort(&receiver, Control::RECEIVE)?;
    check_eq!(error_of(&receiver.finish()?), Some((Phase::Receive, IpcCode::Canceled)));
    let sent = sender.run_ipc(&IpcCmd::send(receiver.id).timeouts(Time::ZERO, Time::NEVER))?;
    check_eq!(error_of(&sent), Some((Phase::Send, IpcCode::Timeout)), "it waits for the runner");
    Ok(())
}

fn third_cancels_waiting_caller(ctx: &mut Ctx) -> TestResult {
    let (sender, receiver) = pair(ctx)?;
    called(ctx, &sender, &receiver, 7)?;
    abort(&sender, Control::RECEIVE)?;
    check_eq!(error_of(&sender.finish()?), Some((Phase::Receive, IpcCode::Canceled)));
    let replied = reply(&receiver, sender.id, 8)?;
    check_eq!(error_of(&replied), Some((Phase::Send, IpcCode::Timeout)), "it waits no more");
    Ok(())
}

fn third_cancels_at_any_moment(ctx: &mut Ctx) -> TestResult {
    let (sender, receiver) = pair(ctx)?;
    for round in 0..60u64 {
        let both = Control::SEND | Control::RECEIVE;
        receiver.start_ipc(&IpcCmd::receive(sender.id))?;
        sender.start_ipc(&IpcCmd::call(receiver.id).words(1, &[round]))?;
        crate::conf::spin(round * 97);
        abort_until_done(&sender, both)?;
        let sent = sender.finish()?;
        // Cancelled while it sent: nothing has arrived. Cancelled later: everything has.
        let Some((phase, IpcCode::Canceled)) = error_of(&sent) else {
            return Err(crate::harness::fail(line!(), format_args!("{:?}", error_of(&sent))));
        };
        if phase == Phase::Send {
            abort_until_done(&receiver, both)?;
            check_eq!(error_of(&receiver.finish()?), Some((Phase::Receive, IpcCode::Canceled)));
        } else {
            let got = receiver.finish()?;
            check_eq!((error_of(&got), got.mr[1]), (None, round), "the request");
        }
    }
    Ok(())
}

fn third_deletes_receiver_of_queued(ctx: &mut Ctx) -> TestResult {
    let (sender, receiver) = pair(ctx)?;
    sender.start_ipc(&IpcCmd::call(receiver.id).words(1, &[1]))?;
    ctx.settle_all();
    need!(thread::delete(receiver.id));
    check_eq!(error_of(&sender.finish()?), Some((Phase::Send, IpcCode::NoPartner)));
    Ok(())
}

fn third_deletes_queued_sender(ctx: &mut Ctx) -> TestResult {
    let (sender, receiver) = pair(ctx)?;
    sender.start_ipc(&IpcCmd::send(receiver.id).words(1, &[1]))?;
    ctx.settle_all();
    need!(thread::delete(sender.id));
    let none = what_is_queued(&receiver)?;
    check_eq!(error_of(&none), Some((Phase::Receive, IpcCode::Timeout)), "queued still");
    Ok(())
}

fn third_deletes_waiting_caller(ctx: &mut Ctx) -> TestResult {
    let (sender, receiver) = pair(ctx)?;
    called(ctx, &sender, &receiver, 5)?;
    need!(thread::delete(sender.id));
    let replied = reply(&receiver, sender.id, 6)?;
    check_eq!(error_of(&replied), Some((Phase::Send, IpcCode::NoPartner)), "the reply");
    Ok(())
}

fn third_deletes_server(ctx: &mut Ctx) -> TestResult {
    let (sender, receiver) = pair(ctx)?;
    called(ctx, &sender, &receiver, 5)?;
    need!(thread::delete(receiver.id));
    ctx.wait_in(&sender, Control::RECEIVE)?;
    abort(&sender, Control::RECEIVE)?;
    check_eq!(error_of(&sender.finish()?), Some((Phase::Receive, IpcCode::Canceled)));
    Ok(())
}

fn third_deletes_waiting_receiver(ctx: &mut Ctx) -> TestResult {
    let (sender, receiver) = pair(ctx)?;
    receiver.start_ipc(&IpcCmd::receive(sender.id))?;
    ctx.settle_all();
    need!(thread::delete(receiver.id));
    let sent = sender.run_ipc(&IpcCmd::send(receiver.id).words(1, &[1]))?;
    check_eq!(error_of(&sent), Some((Phase::Send, IpcCode::NoPartner)));
    Ok(())
}

fn third_deletes_receiver_at_any_moment(ctx: &mut Ctx) -> TestResult {
    let (sender, witness) = pair(ctx)?;
    let cpu = ctx.place().third().and_then(|place| place.cpu());
    for round in 0..60u64 {
        let id = ctx.spare_id()?;
        need!(thread::create_local(id, ctx.spare_utcb(id), ids::pager()));
        need!(sys::schedule(id, Schedule { processor: cpu, ..Schedule::default() }));
        sender.start_ipc(&IpcCmd::send(id).words(1, &[round]))?;
        crate::conf::spin(round * 97);
        need!(thread::delete(id));
        check_eq!(error_of(&sender.finish()?), Some((Phase::Send, IpcCode::NoPartner)), "{round}");
        ctx.return_spare();
    }
    check!(!witness.run(Op::ReadTcr, &[0])?.tag.is_error(), "the other CPU works");
    Ok(())
}

fn third_deletes_sender_at_any_moment(ctx: &mut Ctx) -> TestResult {
    let receiver = ctx.puppet_on_third()?;
    for round in 0..6u64 {
        let sender = ctx.puppet()?;
        receiver.start_ipc(&IpcCmd::receive(sender.id).timeouts(Time::NEVER, Time::NEVER))?;
        sender.start_ipc(&IpcCmd::call(receiver.id).words(1, &[round]))?;
        crate::conf::spin(round * 1_500);
        need!(thread::delete(sender.id));
        abort_until_done(&receiver, Control::RECEIVE)?;
        let got = receiver.finish()?;
        match error_of(&got) {
            None => check_eq!(got.mr[1], round, "the message"),
            error => check_eq!(error, Some((Phase::Receive, IpcCode::Canceled))),
        }
        let replied = reply(&receiver, sender.id, 6)?;
        check_eq!(error_of(&replied), Some((Phase::Send, IpcCode::NoPartner)), "the reply");
    }
    Ok(())
}

fn third_moves_queued_sender(ctx: &mut Ctx) -> TestResult {
    let (sender, receiver) = pair(ctx)?;
    let here = thread::my_cpu();
    sender.start_ipc(&IpcCmd::send(receiver.id).words(1, &[9]))?;
    ctx.settle_all();
    move_to(sender.id, here)?;
    let got = receiver.run_ipc(&IpcCmd::receive(sender.id))?;
    check_eq!((error_of(&got), got.mr[1]), (None, 9));
    check!(got.tag.is_cross_cpu(), "X");
    check_eq!(error_of(&sender.finish()?), None);
    let number = sender.run(Op::ReadTcr, &[l4abi::utcb::word::PROCESSOR_NO as u64])?.results[0];
    check_eq!(number, u64::from(here.0), "ProcessorNo");
    Ok(())
}

fn third_moves_receiver_of_queued(ctx: &mut Ctx) -> TestResult {
    let (sender, receiver) = pair(ctx)?;
    for cpu in [thread::my_cpu(), need_cpu(ctx)?] {
        sender.start_ipc(&IpcCmd::send(receiver.id).words(1, &[9]))?;
        ctx.settle_all();
        move_to(receiver.id, cpu)?;
        ctx.wait_in(&sender, Control::SEND)?;
        let got = receiver.run_ipc(&IpcCmd::receive(sender.id))?;
        check_eq!((error_of(&got), got.mr[1]), (None, 9));
        check_eq!(got.tag.is_cross_cpu(), ctx.place().cpu() != Some(cpu), "X");
        check_eq!(error_of(&sender.finish()?), None);
    }
    Ok(())
}

/// The CPU of the test's place.
fn need_cpu(ctx: &Ctx) -> TestResult<CpuId> {
    let Some(cpu) = ctx.place().cpu() else {
        return Err(crate::harness::fail(line!(), format_args!("no such place")));
    };
    Ok(cpu)
}

fn third_moves_waiting_caller(ctx: &mut Ctx) -> TestResult {
    let (sender, receiver) = pair(ctx)?;
    for cpu in [thread::my_cpu(), need_cpu(ctx)?] {
        called(ctx, &sender, &receiver, 4)?;
        move_to(sender.id, cpu)?;
        check_eq!(error_of(&reply(&receiver, sender.id, 5)?), None, "the reply");
        let got = sender.finish()?;
        check_eq!((error_of(&got), got.mr[1]), (None, 5));
    }
    Ok(())
}

fn third_stays_and_is_told(ctx: &mut Ctx) -> TestResult {
    let (partner, other) = pair(ctx)?;
    let there = need_cpu(ctx)?;
    let third = ctx.place().third().and_then(|place| place.cpu());
    let told = || {
        let sent = libl4::ipc::staying_on_cpu(|| ctx.ipc(&IpcCmd::send(partner.id).words(1, &[3])));
        sent.ipc_error().filter(|e| e.code == IpcCode::WouldCross).map(l4abi::ext::crossing_cpu)
    };
    check_eq!(told(), Some(Some(there)), "at first");
    move_to(partner.id, third.unwrap_or(there))?;
    check_eq!(told(), Some(third), "moved");
    // A visitor is where it lives, not where it waits.
    called(ctx, &other, &partner, 2)?;
    check_eq!(error_of(&reply(&partner, other.id, 1)?), None);
    other.finish()?;
    move_to(partner.id, thread::my_cpu())?;
    check_eq!(told(), None, "on one CPU");
    Ok(())
}

/// `client`, in the space of `forwarder`, calls that; the forwarder passes the request on to `server` in the client's
/// name, and the server answers the client.
fn forward(ctx: &Ctx, client: &Puppet, forwarder: &Puppet, server: &Puppet) -> TestResult {
    server.start_ipc(&IpcCmd::receive(ThreadId::ANY))?;
    let pass = IpcCmd::send(server.id).words(2, &[12]).propagate(client.id);
    check_eq!(error_of(&forwarder.run_ipc(&pass)?), None, "passed on");
    let got = server.finish()?;
    check_eq!((error_of(&got), got.from, got.mr[1]), (None, client.id, 12), "the request");
    check!(got.tag.is_propagated(), "p");
    ctx.settle_all();
    check_eq!(error_of(&reply(server, client.id, 13)?), None, "the reply");
    let answer = client.finish()?;
    check_eq!((error_of(&answer), answer.from, answer.mr[1]), (None, server.id, 13), "the answer");
    Ok(())
}

/// A client that has called a forwarder of its space on another CPU, and a server on the runner's.
fn three(ctx: &mut Ctx) -> TestResult<(Puppet, Puppet, Puppet)> {
    let forwarder = ctx.puppet()?;
    let Some(place) = ctx.place().third() else {
        return Err(crate::harness::fail(line!(), format_args!("no third CPU")));
    };
    let space_of = Some(forwarder.id);
    let options = PuppetOptions { place, space_of, priority: ctx::PUPPET_PRIORITY };
    let client = ctx.puppet_with(options)?;
    let server = ctx.puppet_at(crate::harness::Place::Remote)?;
    client.start_ipc(&IpcCmd::call(forwarder.id).words(1, &[11]))?;
    let got = forwarder.run_ipc(&IpcCmd::receive(client.id))?;
    check_eq!((error_of(&got), got.mr[1]), (None, 11), "the request");
    ctx.settle_all();
    Ok((client, forwarder, server))
}

fn third_speaks_for_another(ctx: &mut Ctx) -> TestResult {
    let (client, forwarder, server) = three(ctx)?;
    forward(ctx, &client, &forwarder, &server)
}

fn third_speaks_for_one_who_was_moved(ctx: &mut Ctx) -> TestResult {
    let (client, forwarder, server) = three(ctx)?;
    move_to(forwarder.id, thread::my_cpu())?;
    forward(ctx, &client, &forwarder, &server)
}
