//! Starting a task, and telling the root task of one that went wrong.

use super::kernel;
use super::shared;
use super::start::setup;
use super::thread::{Serving, with_pager};
use alloc::vec::Vec;
use app_pager::control::Spawn;
use app_pager::directory::Directory;
use app_pager::event::Action;
use app_pager::ids::{Frame, PageNo, PageRange};
use app_pager::image::Image;
use app_pager::layout::{HEAP, MODULE_BASE, frame_address};
use app_pager::region::{Policy, Region};
use l4abi::{Rights, ThreadId};
use libl4::program::{PAGE, START_PAGE};
use libl4::{arch, pager};

/// Loads the program and starts its first thread, on this lane's CPU.
pub fn spawn(me: &mut Serving, ask: &Spawn) -> Result<ThreadId, &'static str> {
    let image = Image::parse(arch::module_bytes(MODULE_BASE + ask.module, ask.size))?;
    let mut directory = Directory::new(ask.task);
    load(&mut directory, &image, ask.start_page)?;
    let thread = with_pager(app_pager::pager::Pager::take_thread_id).ok_or("no thread id")?;
    kernel::create_space(setup(), ask.task, thread, me.id())
        .map_err(|_| "the kernel makes no space")?;
    let placed: Vec<Action> =
        with_pager(|pager| pager.start_task(directory, thread)).into_iter().collect();
    if placed.is_empty() {
        return Err("the task exists");
    }
    me.perform(placed);
    shared::of(setup().node).put_on(thread, libl4::thread::my_cpu());
    pager::start_message(thread, image.entry, 0)
        .map_err(|_| "the thread takes no start message")?;
    Ok(thread)
}

fn load(directory: &mut Directory, image: &Image<'_>, start: u64) -> Result<(), &'static str> {
    for segment in &image.segments {
        // What nobody writes is replicated where it is read (numa-l4 4.2.5).
        let writable = segment.rights.contains(Rights::W);
        let policy = if writable { Policy::FirstTouch } else { Policy::Replicate };
        let region = Region { rights: segment.rights, policy };
        let (first, end) = segment.pages();
        directory.regions.set(PageRange::new(first, end), region);
        for page in first..end {
            if let Some((at, data)) = segment.page_data(page) {
                let frame = fresh_frame()?;
                arch::write_memory(frame_address(frame) + at, data);
                if !directory.preload(PageNo(page), frame) {
                    return Err("two segments share a page");
                }
            }
        }
    }
    let region = Region { rights: Rights::R, policy: Policy::Replicate };
    let page = PageNo::of(START_PAGE).0;
    directory.regions.set(PageRange::new(page, page + 1), region);
    let frame = fresh_frame()?;
    arch::copy_memory(frame_address(frame), MODULE_BASE + start, PAGE as u64);
    if !directory.preload(PageNo(page), frame) {
        return Err("its start page lies in a segment");
    }
    let heap = Region { rights: Rights::RW, policy: Policy::FirstTouch };
    directory.regions.set(app_pager::client::pages(HEAP.0, HEAP.1), heap);
    Ok(())
}

/// A cleared frame of this node.
fn fresh_frame() -> Result<Frame, &'static str> {
    let frame = with_pager(app_pager::pager::Pager::take_frame).ok_or("no frame left")?;
    arch::clear_memory(frame_address(frame), PAGE as u64);
    Ok(frame)
}
