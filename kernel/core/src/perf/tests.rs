//! Processors as they describe themselves, and what they can count.

use super::*;

const AMD: Leaf = [0xD, 0x6874_7541, 0x444D_4163, 0x6974_6E65];
const INTEL: Leaf = [0x16, 0x756E_6547, 0x6C65_746E, 0x4965_6E69];

/// CPUID of a processor: leaf 0, signature, ECX of leaf 1, EAX of leaf 0Ah, ECX of leaf 8000_0001h.
fn processor(zero: Leaf, signature: u32, features: u32, counting: u32, extended: u32) -> Processor {
    Processor::read(|leaf| match leaf {
        0 => zero,
        1 => [signature, 0, features, 0],
        0xA => [counting, 0, 0, 0],
        0x8000_0000 => [0x8000_001E, 0, 0, 0],
        0x8000_0001 => [0, 0, extended, 0],
        _ => [0; 4],
    })
}

/// Opteron 2216: family 0Fh, model 41h. Opteron 6168: family 10h, model 09h.
const OPTERON_2216: u32 = 0x0004_0F12;
const OPTERON_6168: u32 = 0x0010_0F91;
/// Opteron 6272: family 15h, model 01h.
const OPTERON_6272: u32 = 0x0060_0F12;
/// EPYC 7551: family 17h, model 01h. EPYC 7763: family 19h, model 01h.
const EPYC_7551: u32 = 0x0080_0F12;
const EPYC_7763: u32 = 0x00A0_0F11;
/// Xeon X5550, X5650, E5-2670, E5-2670 v3, Gold 6130, Platinum 8480.
const XEON_X5550: u32 = 0x0001_06A5;
const XEON_X5650: u32 = 0x0002_06C2;
const XEON_E5_2670: u32 = 0x0002_06D7;
const XEON_E5_2670_V3: u32 = 0x0003_06F2;
const XEON_6130: u32 = 0x0005_0654;
const XEON_8480: u32 = 0x0008_06F8;
/// Four counters of version 3.
const VERSION_3: u32 = 0x0730_0403;

#[test]
fn families_and_models_are_put_together() {
    for (zero, signature, family, model) in [
        (AMD, OPTERON_2216, 0x0F, 0x41),
        (AMD, OPTERON_6168, 0x10, 0x09),
        (AMD, OPTERON_6272, 0x15, 0x01),
        (AMD, EPYC_7551, 0x17, 0x01),
        (AMD, EPYC_7763, 0x19, 0x01),
        (INTEL, XEON_X5550, 6, 0x1A),
        (INTEL, XEON_6130, 6, 0x55),
        // A Pentium 4: base family 15.
        (INTEL, 0x0000_0F29, 0xF, 0x02),
    ] {
        let found = processor(zero, signature, 0, VERSION_3, 0);
        assert_eq!((found.family, found.model), (family, model), "{signature:#x}");
    }
}

#[test]
fn opterons_count_in_the_north_bridge() {
    for signature in [OPTERON_2216, OPTERON_6168] {
        let plan = plan(&processor(AMD, signature, 0, 0, 0)).unwrap();
        let remote = plan.remote.unwrap();
        assert_eq!(remote.select, (0xC001_0000, 0x0043_98E9));
        assert_eq!((remote.number, remote.scope, remote.response), (0, Scope::Node, None));
        let local = plan.local.unwrap();
        assert_eq!((local.select, local.number), ((0xC001_0001, 0x0043_A8E9), 1));
        assert_eq!(plan.enable, None);
    }
    let bulldozer = |extended| plan(&processor(AMD, OPTERON_6272, 0, 0, extended));
    let found = bulldozer(1 << 24 | 1 << 23).unwrap();
    assert_eq!(found.remote.unwrap().select, (0xC001_0240, 0x0043_98E9));
    assert_eq!((found.remote.unwrap().number, found.local.unwrap().number), (6, 7));
    assert_eq!(found.local.unwrap().select.0, 0xC001_0242);
    assert_eq!(bulldozer(1 << 23), Err(NoCounter::Processor), "no counters in the north bridge");
}

#[test]
fn newer_amd_processors_count_fills() {
    for signature in [EPYC_7551, EPYC_7763] {
        let plan = plan(&processor(AMD, signature, 0, 0, 1 << 23)).unwrap();
        assert_eq!(plan.remote.unwrap().select, (0xC001_0200, 0x0043_4043));
        assert_eq!(plan.local.unwrap().select, (0xC001_0202, 0x0043_0843));
        assert!(plan.all().all(|counting| counting.scope == Scope::Cpu));
    }
    assert!(plan(&processor(AMD, EPYC_7551, 0, 0, 0)).is_err());
}

#[test]
fn xeons_count_off_core_responses() {
    let found = |signature| plan(&processor(INTEL, signature, 0, VERSION_3, 0)).unwrap();
    let nehalem = found(XEON_X5550);
    assert_eq!(nehalem.remote.unwrap().select, (0x186, 0x0043_01B7));
    assert_eq!(nehalem.remote.unwrap().response, Some((0x1A6, 0x3007)));
    assert_eq!(nehalem.local, None, "it has one response register");
    assert_eq!(nehalem.enable, Some((0x38F, 3)));
    let westmere = found(XEON_X5650);
    assert_eq!(westmere.local.unwrap().select, (0x187, 0x0043_01BB));
    assert_eq!(westmere.local.unwrap().response, Some((0x1A7, 0x4007)));
    for (signature, remote, local) in [
        (XEON_E5_2670, 0x1F_FF80_0007, 0x1F_8040_0007),
        (XEON_E5_2670_V3, 0x1F_B800_0007, 0x1F_8040_0007),
        (XEON_6130, 0x1F_B800_0007, 0x1F_8400_0007),
        (XEON_8480, 0x3F_B300_0001, 0x1_0C00_0001),
    ] {
        let plan = found(signature);
        assert_eq!(plan.remote.unwrap().response, Some((0x1A6, remote)), "{signature:#x}");
        assert_eq!(plan.local.unwrap().response, Some((0x1A7, local)), "{signature:#x}");
    }
}

#[test]
fn what_cannot_count_says_why() {
    let why = |processor| plan(&processor).unwrap_err();
    // What the emulator says of itself: AMD, family 6; or a K8 with the hypervisor bit.
    assert_eq!(why(processor(AMD, 0x0663, 1 << 31, 0, 0)), NoCounter::Hypervisor);
    assert_eq!(why(processor(AMD, OPTERON_6168, 1 << 31, 0, 0)), NoCounter::Hypervisor);
    assert_eq!(why(processor(AMD, 0x0663, 0, 0, 0)), NoCounter::Processor);
    assert_eq!(why(processor(INTEL, XEON_6130, 0, 0, 0)), NoCounter::Unsupported);
    assert_eq!(why(processor(INTEL, XEON_6130, 0, 0x0730_0103, 0)), NoCounter::Unsupported);
    // A Core i7-6700: no server, no other nodes.
    assert_eq!(why(processor(INTEL, 0x0005_06E3, 0, VERSION_3, 0)), NoCounter::Processor);
    assert_eq!(why(processor([0x10, 1, 2, 3], 0, 0, 0, 0)), NoCounter::Processor);
    let old = Leaf::from([5, INTEL[1], INTEL[2], INTEL[3]]);
    assert_eq!(why(processor(old, XEON_6130, 0, VERSION_3, 0)), NoCounter::Unsupported);
}

#[test]
fn no_plan_raises_interrupts_or_leaves_the_counters() {
    const INTERRUPT: u64 = 1 << 20;
    for family in 0..0x20 {
        // Some of them under miri, which is slow.
        for model in (0..0x100).step_by(if cfg!(miri) { 15 } else { 1 }) {
            for vendor in [Vendor::Amd, Vendor::Intel, Vendor::Other] {
                let processor = Processor {
                    vendor,
                    family,
                    model,
                    hypervisor: false,
                    version: 3,
                    counters: 4,
                    extended_core: true,
                    extended_northbridge: true,
                };
                let Ok(plan) = plan(&processor) else { continue };
                for counting in plan.all() {
                    let (register, value) = counting.select;
                    assert_eq!(value & INTERRUPT, 0);
                    assert_eq!(value & RUN, RUN);
                    let own = match vendor {
                        Vendor::Intel => 0x186..0x18A,
                        _ => 0xC001_0000..0xC001_0248,
                    };
                    assert!(own.contains(&register));
                }
                let counters = HardwareCounter::ALL;
                assert!(counters.iter().any(|&counter| plan.of(counter).is_some()));
            }
        }
    }
}
