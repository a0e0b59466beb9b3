// perf/run api: requests on a connection that is kept, each from its first byte sent to its answer's last: GET / of a
// machine that is not started, and PATCH /vm of one whose guest spins; beside a bare cpp-httplib server.

#include "perf/series.h"
#include "tests/support/child_process.h"

#include <cstdio>
#include <string>
#include <utility>
#include <vector>

namespace mayfly::perf {
namespace {

using namespace mayfly::testing;

/// Requests of a kind, one after the other, before the next kind's turn.
constexpr int kBatch = 50;
constexpr const char* kPaused = R"({"state": "Paused"})";
constexpr const char* kResumed = R"({"state": "Resumed"})";

struct Paths {
  std::string monitor;
  std::string floor;
  std::string spinning_guest;
};

/// A server, and a connection to it.
class Server {
 public:
  Server(std::vector<std::string> command, const std::string& socket)
      : waiter_(socket), process_(std::move(command), {}), connection_(waiter_.connect()) {}

  /// Microseconds.
  double measure(const char* method, const char* path, const std::string& body) const {
    const double begin = now_us();
    must_exchange(connection_.get(), method, path, body);
    return now_us() - begin;
  }

 private:
  SocketWaiter waiter_;
  ChildProcess process_;
  OwnedFd connection_;
};

int run(const Paths& paths, int rounds) {
  const ScratchDirectory scratch;
  const auto monitor = [&](const std::string& socket) {
    return std::vector<std::string>{paths.monitor, "--api-sock", socket, "--level", "Error"};
  };
  const Server idle{monitor(scratch.file("idle")), scratch.file("idle")};
  const Server machine{monitor(scratch.file("machine")), scratch.file("machine")};
  const Server floor{{paths.floor, scratch.file("floor")}, scratch.file("floor")};
  machine.measure("PUT", "/boot-source", R"({"kernel_image_path": ")" + paths.spinning_guest + "\"}");
  machine.measure("PUT", "/actions", R"({"action_type": "InstanceStart"})");
  machine.measure("PATCH", "/vm", kPaused);  // between its turns it takes no CPU from the others

  std::vector<Series> get = {Series{"mayfly"}, Series{"floor: bare cpp-httplib"}};
  std::vector<Series> patch = {Series{"mayfly"}, Series{"mayfly: Paused"}, Series{"mayfly: Resumed"},
                               Series{"floor: bare cpp-httplib"}};
  for (int round = 0; round < rounds; ++round) {
    for (const auto& [server, series] : {std::pair{&idle, &get[0]}, std::pair{&floor, &get[1]}}) {
      server->measure("GET", "/", "");  // who has had nothing to do for long sleeps more deeply
      for (int i = 0; i < kBatch; ++i) series->add(server->measure("GET", "/", ""));
    }
    for (int i = 0; i < kBatch; i += 2) {
      const double resumed = machine.measure("PATCH", "/vm", kResumed);
      const double paused = machine.measure("PATCH", "/vm", kPaused);
      patch[0].add(resumed);
      patch[0].add(paused);
      patch[1].add(paused);
      patch[2].add(resumed);
    }
    floor.measure("GET", "/", "");
    for (int i = 0; i < kBatch; ++i) patch[3].add(floor.measure("PATCH", "/vm", kPaused));
    std::fprintf(stderr, "\rround %d of %d", round + 1, rounds);
  }
  std::fprintf(stderr, "\r\033[K");
  print_table("GET /", "us", get);
  print_table("PATCH /vm", "us", patch);
  std::printf("\napi: get_us=%.1f patch_us=%.1f floor_us=%.1f\n", get[0].median(), patch[0].median(), get[1].median());
  return 0;
}

}  // namespace
}  // namespace mayfly::perf

int main(int argc, char** argv) {
  return mayfly::perf::benchmark_main(
      argc, argv, "MONITOR HTTP-FLOOR SPINNING-GUEST",
      [](const auto& paths, int rounds) { return mayfly::perf::run({paths[0], paths[1], paths[2]}, rounds); });
}
