//! The last stage: sigma0 and the root task are loaded where they are linked (physical = virtual), and their first
//! threads made (reference 7.1).

use kcore::fixed::FixedVec;
use kcore::ipc::State;
use kcore::layout::PAGE_SIZE;
use kcore::types::{PhysAddr, PhysRange};
use l4abi::archive::{Archive, ROOTTASK_NAME, SIGMA0_NAME};
use l4abi::bootinfo::Writer;
use l4abi::fpage::Region;
use l4abi::id::ThreadId;
use l4abi::kip::ServerImage;
use l4abi::kip::memory::boot_subtype;
use l4abi::schedule::ROOT_PRIORITY;
use l4abi::utcb::{MR0_OFFSET, ROOT_KIP_AREA, ROOT_UTCB_AREA};
use xmas_elf::ElfFile;
use xmas_elf::program::Type;

use super::fatal;
use crate::arch::x86_64::copy_window;
use crate::kip::{self, Servers};
use crate::machine::Machine;
use crate::memory::frames;
use crate::sched::percpu::PerCpu;
use crate::space::{self, SpaceRef};
use crate::thread::tcb::{TcbRef, reg};
use crate::thread::{alloc, utcb};

/// What the archive holds, found without keeping it mapped.
#[derive(Clone, Copy)]
struct Found {
    name: [u8; 48],
    range: PhysRange,
}

const NONE: Found = Found { name: [0; 48], range: PhysRange::EMPTY };
impl Found {
    fn name(&self) -> &str {
        let length = self.name.iter().position(|&b| b == 0).unwrap_or(self.name.len());
        core::str::from_utf8(&self.name[..length]).unwrap_or("?")
    }
}

type Modules = FixedVec<Found, 32>;

/// Loads the servers and starts their first threads on this CPU.
pub fn start(machine: &Machine, cpu: &PerCpu) {
    let modules = modules(machine);
    let sigma0 = load(&modules, SIGMA0_NAME);
    let root = load(&modules, ROOTTASK_NAME);
    let mut servers = Servers { sigma0, root, boot_info: 0, dedicated: FixedVec::new((0, 0, 0)) };
    for module in modules.iter() {
        let (low, last) = (module.range.start.as_u64(), module.range.end.as_u64() - 1);
        let _ = servers.dedicated.push((boot_subtype::BOOT_MODULE, low, last));
    }
    servers.boot_info = boot_info(machine, &modules, &mut servers, sigma0, root);
    if let Err(problem) = kip::init(machine, &servers) {
        fatal(format_args!("{problem}"));
    }
    let (sigma0_id, root_id) = kip::server_ids();
    server(cpu, sigma0_id, root_id, sigma0.ip, None);
    server(cpu, root_id, root_id, root.ip, Some(sigma0_id));
}

/// The modules of the boot archive.
fn modules(machine: &Machine) -> Modules {
    let mut found = Modules::new(NONE);
    let Some(archive) = machine.archive else {
        fatal(format_args!("there is no boot archive: start the kernel with `cargo xtask run`"));
    };
    // The directory comes first; module contents are not looked at here.
    let parsed = copy_window::look(archive.start, archive.len(), |bytes| {
        let archive_at = archive.start;
        let parsed = Archive::parse(bytes)?;
        for module in parsed.modules() {
            let mut name = [0; 48];
            let text = module.name.as_bytes();
            let length = text.len().min(name.len());
            name[..length].copy_from_slice(&text[..length]);
            let start = archive_at.offset(module.offset as u64);
            let range = PhysRange::from_len(start.as_u64(), module.data.len() as u64);
            let _ = found.push(Found { name, range });
        }
        Ok::<(), l4abi::archive::ArchiveError>(())
    });
    match parsed {
        None => fatal(format_args!("the boot archive is too large to be looked at")),
        Some(Err(error)) => fatal(format_args!("boot archive: {error}")),
        Some(Ok(())) => found,
    }
}

/// Loads the module of that name where it is linked.
fn load(modules: &Modules, what: &str) -> ServerImage {
    let Some(module) = modules.iter().find(|m| m.name() == what) else {
        fatal(format_args!("the boot archive has no {what}"));
    };
    let range = module.range;
    match copy_window::look(range.start, range.len(), load_elf) {
        Some(Ok(image)) => image,
        Some(Err(problem)) => fatal(format_args!("{what}: {problem}")),
        None => fatal(format_args!("{what}: the module is too large")),
    }
}

fn load_elf(bytes: &[u8]) -> Result<ServerImage, &'static str> {
    let elf = ElfFile::new(bytes)?;
    let mut image = ServerImage { sp: 0, ip: elf.header.pt2.entry_point(), low: u64::MAX, high: 0 };
    for segment in elf.program_iter().filter(|s| s.get_type() == Ok(Type::Load)) {
        let start = segment.physical_addr();
        let (offset, size) = (segment.offset() as usize, segment.file_size() as usize);
        let data = bytes.get(offset..).and_then(|b| b.get(..size)).ok_or("segment is cut off")?;
        let end = start.checked_add(segment.mem_size()).ok_or("segment wraps around")?;
        place(start, end, data)?;
        image.low = image.low.min(start);
        image.high = image.high.max(end);
    }
    if image.high <= image.low {
        return Err("nothing to load");
    }
    image.low &= !(PAGE_SIZE - 1);
    image.high = image.high.next_multiple_of(PAGE_SIZE);
    Ok(image)
}

/// Copies a segment to its physical place; the rest of it is zero.
fn place(start: u64, end: u64, data: &[u8]) -> Result<(), &'static str> {
    let mut at = start;
    while at < end {
        let page = at & !(PAGE_SIZE - 1);
        let info = frames::info(PhysAddr::new(page));
        if !info.usable || info.cache != 0 {
            return Err("it is linked at an address that is not free memory of this machine");
        }
        let until = (page + PAGE_SIZE).min(end);
        if at == page {
            copy_window::zero(PhysAddr::new(page));
        }
        let from = (at - start) as usize;
        let piece = data.get(from..data.len().min((until - start) as usize)).unwrap_or(&[]);
        copy_window::write(piece, PhysAddr::new(at));
        at = until;
    }
    Ok(())
}

/// A name with arguments.
struct CommandLine {
    text: [u8; 160],
    len: usize,
}

impl Default for CommandLine {
    fn default() -> Self {
        Self { text: [0; 160], len: 0 }
    }
}

impl CommandLine {
    /// Appends what fits.
    fn add(&mut self, text: &str) -> &mut Self {
        for &byte in text.as_bytes() {
            if let Some(slot) = self.text.get_mut(self.len) {
                *slot = byte;
                self.len += 1;
            }
        }
        self
    }

    fn as_str(&self) -> &str {
        core::str::from_utf8(&self.text[..self.len]).unwrap_or("")
    }
}

/// Writes the boot info page behind the root task's image; 0 if it does not fit anywhere.
fn boot_info(
    machine: &Machine,
    modules: &Modules,
    servers: &mut Servers,
    sigma0: ServerImage,
    root: ServerImage,
) -> u64 {
    let taken =
        |page: u64| [sigma0, root].iter().any(|i| page < i.high && i.low < page + PAGE_SIZE);
    let free = machine.free.iter().filter(|r| r.start.as_u64() >= 1 << 20);
    let mut candidates = free.filter_map(|r| {
        let page = r.end.as_u64().checked_sub(PAGE_SIZE)? & !(PAGE_SIZE - 1);
        (page >= r.start.as_u64() && page < 1 << 32 && !taken(page)).then_some(page)
    });
    let Some(page) = candidates.next() else { return 0 };
    let mut area = [0u8; PAGE_SIZE as usize];
    let Ok(mut writer) = Writer::new(&mut area) else { return 0 };
    for module in modules.iter() {
        let name = module.name();
        let image = match name {
            SIGMA0_NAME => Some(sigma0),
            ROOTTASK_NAME => Some(root),
            _ => None,
        };
        let written = match image {
            Some(i) => {
                let mut line = CommandLine::default();
                let arguments = crate::machine::get().options.arguments;
                let own = if name == ROOTTASK_NAME { arguments.as_str() } else { "" };
                line.add(name).add(if own.is_empty() { "" } else { " " }).add(own);
                writer.simple_exec(i.low, i.high - i.low, i.ip, line.as_str())
            }
            None => writer.module(module.range.start.as_u64(), module.range.len(), name),
        };
        if written.is_err() {
            break;
        }
    }
    let _ = writer.finish();
    copy_window::write(&area, PhysAddr::new(page));
    let _ = servers.dedicated.push((boot_subtype::INIT_TABLE, page, page + PAGE_SIZE - 1));
    page
}

/// Makes the first thread of an initial server and its space.
fn server(cpu: &PerCpu, id: ThreadId, scheduler: ThreadId, ip: u64, pager: Option<ThreadId>) {
    let made = make_server(cpu, id, scheduler, pager);
    match made {
        Some(t) => {
            t.set_reg(reg::RIP, ip);
            t.priority.set(ROOT_PRIORITY);
            t.set_state(State::Waiting);
            crate::sched::make_ready(cpu, t);
        }
        None => fatal(format_args!("no memory for the initial servers")),
    }
}

fn make_server(
    cpu: &PerCpu,
    id: ThreadId,
    scheduler: ThreadId,
    pager: Option<ThreadId>,
) -> Option<TcbRef> {
    let (area, log2) = ROOT_UTCB_AREA;
    let space: SpaceRef = space::create(cpu.node()).ok()?;
    let t = alloc::prepare(cpu, id, scheduler.raw())?;
    space::join(cpu, space, t).ok()?;
    let t = alloc::publish(cpu, t)?;
    space.make_privileged(pager.is_none());
    let kip_area = Region::containing(ROOT_KIP_AREA, kip::area_log2());
    if !kip::map_into(space, kip_area.base()) {
        return None;
    }
    space.initialise(kip_area, Region::containing(area, log2));
    t.local_id.set(area + MR0_OFFSET as u64);
    t.utcb.set(space.utcb_for(area)?);
    utcb::initialise(t, pager.map_or(0, ThreadId::raw));
    Some(t)
}
