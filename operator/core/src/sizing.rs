//! How many GPUs one replica needs, from the bytes of its weights and the memory of a GPU.
//!
//! An estimate to place by; what the engine measures after loading replaces it. The constants are KAITO's and vLLM's
//! published ones, in hundredths so that every member computes the same number.

/// Tensor-parallel sizes that divide the attention heads of every model in use.
pub const TENSOR_PARALLEL_SIZES: [i32; 4] = [1, 2, 4, 8];

/// Memory that an engine takes on each GPU besides weights and cache, in bytes: 2.3 GiB.
const ENGINE_OVERHEAD_BYTES: u128 = 2_469_606_195;

/// Weights loaded into memory exceed their files by 2 %, and fragmentation takes 5 % more.
const WEIGHT_FACTOR_PERCENT: u128 = 102 * 105;

/// The share of a GPU's memory that is planned with, in hundredths; the rest is headroom until a load was measured.
const USABLE_PERCENT: u128 = 84;

/// Bytes that a model's copy needs, where they are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ModelSize {
    /// Sum of the weight files.
    pub weight_bytes: u64,
    /// Key-value cache for all requests that are served at a time; zero where it is not known.
    pub cache_bytes: u64,
}

/// The smallest tensor-parallel size that holds the model, or `None` where eight GPUs of that memory do not.
///
/// # Assumptions
/// `memory_bytes` is what NVML reports for one GPU, never the marketing number.
#[must_use]
pub fn gpus_needed(model: ModelSize, memory_bytes: u64) -> Option<i32> {
    let usable = u128::from(memory_bytes) * USABLE_PERCENT / 100;
    TENSOR_PARALLEL_SIZES.into_iter().find(|&gpus| {
        let split = u128::from(gpus.unsigned_abs());
        let weights = (u128::from(model.weight_bytes) * WEIGHT_FACTOR_PERCENT).div_ceil(10_000 * split);
        let cache = u128::from(model.cache_bytes).div_ceil(split);
        weights + cache + ENGINE_OVERHEAD_BYTES <= usable
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn tokens(count: u64, bytes_each: u64) -> u64 {
        count * bytes_each
    }

    /// serving.md 7.2 gives the smallest TP with room for 131,072 tokens at u = 0.84.
    #[test]
    fn published_models_need_the_published_number_of_gpus() {
        let llama_8b = ModelSize { weight_bytes: 14_96 * GIB / 100, cache_bytes: tokens(131_072, 131_072) };
        let qwen_32b = ModelSize { weight_bytes: 61 * GIB, cache_bytes: tokens(131_072, 262_144) };
        let llama_70b = ModelSize { weight_bytes: 1314 * GIB / 10, cache_bytes: tokens(131_072, 327_680) };
        let (consumer, h100, h200) = (225 * GIB / 10, 796 * GIB / 10, 1398 * GIB / 10);
        let needed = |model| [consumer, h100, h200].map(|memory| gpus_needed(model, memory));
        assert_eq!(needed(llama_8b), [Some(2), Some(1), Some(1)]);
        assert_eq!(needed(qwen_32b), [Some(8), Some(2), Some(1)]);
        assert_eq!(needed(llama_70b), [None, Some(4), Some(2)]);
    }

    #[test]
    fn a_gpu_smaller_than_the_engine_holds_nothing() {
        assert_eq!(gpus_needed(ModelSize { weight_bytes: 1, cache_bytes: 0 }, 2 * GIB), None);
    }
}
