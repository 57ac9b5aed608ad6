//! Spaces whose faults the root task serves itself: pagers, and programs of systems without one.

use crate::memory::{Memory, PAGE};
use alloc::collections::BTreeMap;
use app_pager::image::Image;
use app_pager::layout::{HEAP, KIP_AREA, UTCB_AREA};
use l4abi::proto::PageFault;
use l4abi::{Fpage, NodeId, Rights, ThreadId};
use libl4::program::{START_PAGE, StartPage};
use libl4::sys::{self, SysResult, ThreadControl};
use libl4::{arch, kip, thread};

/// Why a space cannot be filled.
pub type Problem = &'static str;

/// The pages of a space.
#[derive(Debug)]
pub struct Pages {
    /// Where the program starts.
    pub entry: u64,
    node: NodeId,
    /// Page number to frame and rights.
    pages: BTreeMap<u64, (u64, Rights)>,
}

impl Pages {
    /// Loads a program, all of its pages on `node`.
    pub fn load(
        memory: &mut Memory,
        node: NodeId,
        program: &[u8],
        start: &StartPage<'_>,
    ) -> Result<Self, Problem> {
        let image = Image::parse(program)?;
        let mut loaded = Self { entry: image.entry, node, pages: BTreeMap::new() };
        let result = loaded.fill(memory, &image, start);
        if result.is_err() {
            loaded.release(memory);
        }
        result.map(|()| loaded)
    }

    fn fill(
        &mut self,
        memory: &mut Memory,
        image: &Image<'_>,
        start: &StartPage<'_>,
    ) -> Result<(), Problem> {
        for segment in &image.segments {
            let (first, end) = segment.pages();
            for page in first..end {
                let frame = self.add(memory, page, segment.rights)?;
                if let Some((at, data)) = segment.page_data(page) {
                    arch::write_memory(frame + at, data);
                }
            }
        }
        let frame = self.add(memory, START_PAGE / PAGE, Rights::R)?;
        arch::write_memory(frame, &start.bytes().ok_or("its arguments are too long")?);
        Ok(())
    }

    fn add(&mut self, memory: &mut Memory, page: u64, rights: Rights) -> Result<u64, Problem> {
        let frame = memory.page(self.node).ok_or("no memory")?;
        match self.pages.insert(page, (frame, rights)) {
            None => Ok(frame),
            Some(_) => Err("its start page lies in a segment"),
        }
    }

    /// What answers a fault; `None` if the program must not do that. Pages of the heap come with
    /// their first fault.
    pub fn serve(&mut self, memory: &mut Memory, fault: &PageFault) -> Option<Fpage> {
        let page = fault.addr / PAGE;
        if !self.pages.contains_key(&page) && (HEAP.0..HEAP.0 + HEAP.1).contains(&fault.addr) {
            self.add(memory, page, Rights::RW).ok()?;
        }
        let &(frame, rights) = self.pages.get(&page)?;
        rights.contains(fault.access).then(|| Fpage::memory(frame, 12, rights))
    }

    /// Number of pages.
    pub fn count(&self) -> usize {
        self.pages.len()
    }

    /// Gives all memory back. The space must be gone.
    pub fn release(&mut self, memory: &mut Memory) {
        let frames = core::mem::take(&mut self.pages);
        memory.give_back(self.node, frames.into_values().map(|(frame, _)| frame));
    }
}

/// Makes a space with one thread, which waits for its start message from the root task's first
/// thread. The space's home is the node of the calling thread.
pub fn make_space(first: ThreadId, root: ThreadId) -> SysResult<()> {
    let create = ThreadControl {
        dest: first,
        space: first,
        scheduler: root,
        pager: ThreadId::NIL,
        utcb: Some(UTCB_AREA.0),
    };
    sys::thread_control(create)?;
    let utcbs = Fpage::memory(UTCB_AREA.0, UTCB_AREA.1, Rights::empty());
    let done = sys::space_control(first, 0, kip().area_at(KIP_AREA), utcbs, ThreadId::NIL)
        .and_then(|_| sys::thread_control(ThreadControl { pager: root, utcb: None, ..create }));
    if done.is_err() {
        let _ = thread::delete(first);
    }
    done
}

/// Adds a thread number `index` to the space of `first`; it waits for its start message.
pub fn add_thread(id: ThreadId, first: ThreadId, index: u64, root: ThreadId) -> SysResult<()> {
    sys::thread_control(ThreadControl {
        dest: id,
        space: first,
        scheduler: root,
        pager: root,
        utcb: Some(UTCB_AREA.0 + index * l4abi::utcb::UTCB_SIZE as u64),
    })
}
