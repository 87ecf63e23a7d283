//! Which instructions a processor has, and how a function comes to use them.
//!
//! The arithmetic is written once, over arrays of sixteen lanes, and compiled for each instruction set. The
//! compiler keeps the order of every sum and never fuses a multiplication with an addition, so the bits are the
//! same everywhere; it does this better than the vector instructions written by hand did.

/// What a processor's vector unit can do. Chooses speed only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isa {
    Baseline,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Isa {
    /// All that run on this machine, the best last.
    pub fn all_here() -> Vec<Self> {
        let mut all = vec![Self::Baseline];
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx2") {
                all.push(Self::Avx2);
            }
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("avx512f") {
                all.push(Self::Avx512);
            }
        }
        all
    }

    pub fn best_here() -> Self {
        Self::all_here().pop().unwrap_or(Self::Baseline)
    }
}

/// Compiles a function once for each instruction set, and calls the one asked for. The function must be
/// `inline(always)`, or it would be compiled without the instructions.
macro_rules! for_each_isa {
    ($isa:expr, $inner:ident $(<$generic:ident: $bound:path>)? ($($arg:ident: $type:ty),*) $(-> $result:ty)?) => {{
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx2")]
        fn avx2$(<$generic: $bound>)?($($arg: $type),*) $(-> $result)? {
            $inner($($arg),*)
        }
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx2,avx512f")]
        fn avx512$(<$generic: $bound>)?($($arg: $type),*) $(-> $result)? {
            $inner($($arg),*)
        }
        match $isa {
            Isa::Baseline => $inner($($arg),*),
            // SAFETY: an `Isa` is only chosen where the processor has these instructions.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => unsafe { avx2($($arg),*) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => unsafe { avx512($($arg),*) },
        }
    }};
}
pub(super) use for_each_isa;
