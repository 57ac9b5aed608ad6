//! A node runs dry: a task wants more pages than its node has. By the manifest's policy another node
//! helps out, and nothing is lost.
//!
//! Arguments: `pages=N` more than a node's pool has (300, for `pool = 1`), `rounds=N` (2).
#![no_std]
#![no_main]
#![deny(unsafe_code)]

use app_pager::client;
use app_pager::region::Policy;
use bench::experiment::{Args, Report};
use libl4::{NodeId, Rights, arch, topology};

libl4::program!(main);

const AT: u64 = 0x1_0000_0000;
const PAGE: u64 = 4096;

fn main() {
    let args = Args::of_program();
    let pages = args.number("pages", 300);
    let mut report = Report::default();
    let all = client::pages(AT, pages * PAGE);
    let region = client::add_region(all, Rights::RW, Policy::FirstTouch);
    report.check("os_spill_region", region.is_ok(), format_args!("{region:?}"));
    let here = topology::my_node();
    for round in 0..args.number("rounds", 2) {
        let at = |page: u64| AT + page * PAGE;
        let mut dirty = 0;
        for page in 0..pages {
            dirty += u64::from(arch::peek(at(page)) != 0);
            arch::poke(at(page), page + round);
        }
        let wrong = (0..pages).filter(|&page| arch::peek(at(page)) != page + round).count();
        let text = format_args!("round {round}: {wrong} of {pages} lost, {dirty} not fresh");
        report.check("os_spill_keeps", wrong == 0 && dirty == 0, text);
        let on = |node: NodeId| {
            let lies = |page: &u64| client::query(at(*page)).is_ok_and(|p| p.frames.contains(node));
            (0..pages).filter(lies).count() as u64
        };
        let own = on(here);
        let others = (0..topology::node_count() as u8).map(NodeId).filter(|&node| node != here);
        let elsewhere: u64 = others.map(on).sum();
        let text = format_args!("{own} here, {elsewhere} on other nodes");
        let ok = own > 0 && elsewhere > 0 && own + elsewhere == pages;
        report.check("os_spill_helped", ok, text);
        // A page that shall go where no frame is left stays where it is.
        let moved = client::migrate_pages(all, here);
        let kept = (0..pages).all(|page| arch::peek(at(page)) == page + round);
        let refused = moved.is_err();
        report.check("os_spill_move_refused", refused && kept, format_args!("{moved:?}"));
        let gone = client::discard(all);
        let text = format_args!("{gone:?}");
        report.check("os_spill_discard", gone.is_ok_and(|(n, _)| n == pages), text);
    }
    report.end();
}
