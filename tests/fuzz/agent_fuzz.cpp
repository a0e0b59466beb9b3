// Any bytes as what a peer says to a guest's agent, or the agent to its host: frames in pieces, their payloads, and a tree of
// files, which is written nowhere but within its directory. The first byte says how large the pieces are.

#include "rootfs-tools/agent/tree.h"
#include "tests/fuzz/must.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <iterator>
#include <string>
#include <string_view>

namespace mayfly::agent {
namespace {

/// What a peer may be asked: whatever is understood is understood again as it is written.
void read_payload(const Frame& frame) {
  const auto again = [](const auto& decoded, auto decode, const auto& payload) {
    if (!decoded) return;
    const auto repeated = decode(payload(*decoded));
    must(repeated.has_value() && *repeated == *decoded);
  };
  const auto plain = [](const auto& value) { return encode(value); };
  const auto fitting = [](const auto& value) { return encode(value).value(); };
  again(decode_exec(frame.payload), decode_exec, fitting);
  again(decode_connect(frame.payload), decode_connect, plain);
  again(decode_get(frame.payload), decode_get, fitting);
  again(decode_put(frame.payload), decode_put, fitting);
  again(decode_exit(frame.payload), decode_exit, plain);
  again(decode_refusal(frame.payload), decode_refusal, plain);
  again(decode_size(frame.payload), decode_size, plain);
  again(decode_entry(frame.payload), decode_entry, plain);
  if (const auto entry = decode_entry(frame.payload)) must(entry->name.empty() || is_file_name(entry->name));
}

/// A directory in memory; all of it is gone at the end.
class Place {
 public:
  Place() {
    must(::mkdtemp(root_.data()) != nullptr);
    std::filesystem::create_directories(root_ + "/place/tree");
    std::filesystem::create_directory_symlink("../..", root_ + "/place/tree/link");
  }
  Place(const Place&) = delete;
  Place& operator=(const Place&) = delete;
  ~Place() {
    // Nothing is beside the directory, whatever came into it.
    std::error_code none;
    const std::filesystem::directory_iterator all{root_};
    must(std::distance(begin(all), end(all)) == 1);
    allow(root_);
    std::filesystem::remove_all(root_, none);
  }
  [[nodiscard]] TreeDestination destination() const { return find_destination(root_ + "/place", "tree").value(); }

 private:
  /// So that directories whose mode forbids it can be emptied.
  static void allow(const std::string& root) {
    std::error_code none;
    namespace fs = std::filesystem;
    for (auto at = fs::recursive_directory_iterator{root, fs::directory_options::skip_permission_denied, none};
         at != fs::recursive_directory_iterator{}; at.increment(none)) {
      if (none) break;
      if (at->is_directory(none) && !at->is_symlink(none)) ::chmod(at->path().c_str(), 0700);
    }
  }

  std::string root_ = "/dev/shm/mayfly-agent-fuzz-XXXXXX";
};

void read_stream(std::string_view bytes, std::size_t piece, TreeReceiver& tree) {
  FrameReader reader;
  bool is_good = true;
  while (!bytes.empty()) {
    const auto room = reader.room();
    const std::size_t count = std::min({piece, room.size(), bytes.size()});
    must(count > 0);
    std::ranges::copy(bytes.substr(0, count), room.begin());
    reader.fill(count);
    bytes.remove_prefix(count);
    for (;;) {
      const auto frame = reader.next();
      if (!frame) return;
      if (!*frame) break;
      must((*frame)->payload.size() <= kLongestPayload);
      read_payload(**frame);
      if (is_good) is_good = tree.take(**frame).value_or(true) == false;
    }
  }
}

}  // namespace
}  // namespace mayfly::agent

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace mayfly::agent;
  if (size == 0) return 0;
  const std::string_view bytes{reinterpret_cast<const char*>(data) + 1, size - 1};
  const Place place;
  const TreeHooks hooks;
  TreeReceiver tree{place.destination(), SetIdBits::Cleared, hooks};
  read_stream(bytes, std::size_t{data[0]} + 1, tree);
  return 0;
}
