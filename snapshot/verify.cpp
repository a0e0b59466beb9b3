#include "snapshot/verify.h"

#include "snapshot/state_file.h"
#include "vmm/base/try.h"

namespace mayfly {

Result<VerifiedPair> verify_chain(const std::string& state_path, std::span<const std::string> memory_paths) {
  auto snapshot = TRY(read_state_file(state_path));
  const auto chain = TRY(open_memory_chain(memory_paths, {.top = snapshot.id,
                                                          .memory_size = snapshot.machine.mem_size_mib * kMiB,
                                                          .may_lack_base = true,
                                                          .all_tables = true}));
  for (const MemoryLayer& layer : chain) TRY(verify_stretches(layer.file.get(), layer.path, layer.stretches));
  VerifiedPair pair{.snapshot = std::move(snapshot), .footer = chain.back().footer, .layers = summarize(chain)};
  for (const LayerSummary& layer : pair.layers) pair.data_bytes += layer.shown_bytes;
  return pair;
}

Result<VerifiedPair> verify_pair(const std::string& state_path, const std::string& memory_path) {
  return verify_chain(state_path, std::span{&memory_path, 1});
}

}  // namespace mayfly
