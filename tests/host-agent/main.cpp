// A small function host: keeps a snapshot of a machine whose function is ready, and answers each HTTP request by a clone
// of its own. README.md beside this file has its use; agent.cpp is the place to begin to read.

#include "tests/host-agent/agent.h"
#include "tests/host-agent/branch_keeper.h"
#include "tests/host-agent/clone_keeper.h"
#include "tests/host-agent/clone_pool.h"
#include "tests/host-agent/function_snapshot.h"
#include "tests/host-agent/http_server.h"
#include "tests/host-agent/live_source.h"
#include "tests/host-agent/template_keeper.h"
#include "tests/host-agent/work_directory.h"
#include "vmm/base/try.h"

#include <signal.h>
#include <sys/signalfd.h>

#include <cstdio>
#include <exception>
#include <filesystem>
#include <memory>
#include <optional>

#include <CLI/CLI.hpp>

namespace mayfly::host_agent {
namespace {

/// The page is for who runs the agent, not for its clients.
constexpr const char* kStatusAddress = "127.0.0.1";

struct Options {
  std::string monitor;
  std::string from;  ///< A template; empty: the function is booted here.
  Function function;
  std::string address = "127.0.0.1";
  std::uint16_t port = 8080;
  std::optional<std::uint16_t> status_port{};
  unsigned clones = 4;
  bool reverts = false;
  bool branches = false;
  bool is_live = false;
  unsigned warm_requests = 10;
  unsigned deadline_ms = 1000;
  unsigned boot_deadline_s = 120;
  std::string directory = std::filesystem::temp_directory_path();
};

/// SIGTERM, SIGINT and SIGHUP, which interrupt nobody. Before any thread is made.
Result<OwnedFd> stop_signals() {
  sigset_t set;
  ::sigemptyset(&set);
  for (const int number : {SIGTERM, SIGINT, SIGHUP}) ::sigaddset(&set, number);
  OwnedFd signals{::signalfd(-1, &set, SFD_CLOEXEC)};
  if (!signals || ::pthread_sigmask(SIG_BLOCK, &set, nullptr) != 0)
    return fail_errno(ErrorKind::System, "cannot wait for signals");
  return signals;
}

std::unique_ptr<Keeper> make_keeper(ClonePool& pool, const Options& options, const std::string& directory,
                                    FunctionSnapshot snapshot) {
  KeeperOptions all{
      .monitor = options.monitor, .directory = directory, .snapshot = std::move(snapshot), .size = options.clones};
  if (options.branches) return std::make_unique<BranchKeeper>(pool, std::move(all));
  return std::make_unique<CloneKeeper>(pool, std::move(all),
                                       options.reverts ? CloneKeeper::Use::Reverts : CloneKeeper::Use::Once);
}

/// What listens.
struct Servers {
  HttpServer function;
  std::optional<HttpServer> status;
};

Result<Servers> listen(const Options& options) {
  auto function = TRY(HttpServer::listen(options.address, options.port));
  Servers servers{.function = std::move(function), .status = std::nullopt};
  if (!options.status_port) return servers;
  auto status = TRY(HttpServer::listen(kStatusAddress, *options.status_port));
  servers.status.emplace(std::move(status));
  return servers;
}

/// Answers requests until it is told to stop, from when the pool has what answers them.
void serve(const Options& options, ClonePool& pool, Servers& servers, const LiveSource* source, const pollfd& stop) {
  Agent agent{pool, {.deadline = std::chrono::milliseconds{options.deadline_ms}, .source = source}};
  // One for each request that has a clone, one for each that waits for one, and some to refuse the others.
  constexpr unsigned kMore = 4;
  servers.function.start(2 * options.clones + kMore,
                         [&agent](const HttpMessage& request, int client) { agent.serve(request, client); });
  if (servers.status) {
    // A browser may hold connections on which it says nothing.
    constexpr unsigned kWatchers = 8;
    servers.status->start(kWatchers,
                          [&agent](const HttpMessage& request, int client) { agent.serve_status(request, client); });
    std::printf("status: http://%s:%u\n", kStatusAddress, unsigned{servers.status->port()});
  }
  std::printf("ready: http://%s:%u\n", options.address.c_str(), unsigned{servers.function.port()});
  std::fflush(stdout);
  (void)is_ready_by(Deadline::max(), stop.fd, stop.events);
  pool.stop();  // so no request waits for its deadline
  servers.function.stop();
  if (servers.status) servers.status->stop();
}

/// With clones of a template.
Status serve_template(const Options& options, clones::Template from, const std::string& directory, Servers& servers,
                      const pollfd& stop) {
  ClonePool pool{options.clones};
  TemplateKeeper keeper{pool,
                        {.monitor = options.monitor,
                         .directory = directory,
                         .from = std::move(from),
                         .size = options.clones,
                         .patience = std::chrono::seconds{options.boot_deadline_s},
                         .stop = stop.fd}};
  if (auto ready = keeper.await_first_clone(); !ready) {
    pool.stop();
    return propagate(ready, "no clone");
  }
  serve(options, pool, servers, nullptr, stop);
  return {};
}

/// With clones of a function that is booted here.
Status serve_function(const Options& options, const std::string& directory, Servers& servers, const pollfd& stop) {
  const std::chrono::seconds boot_patience{options.boot_deadline_s};
  const BootOptions boot{.monitor = options.monitor,
                         .directory = directory,
                         .id = "template",
                         .deadline = Deadline::clock::now() + boot_patience,
                         .stop = stop};
  ClonePool pool{options.clones};
  if (options.is_live) {
    LiveSource source{pool,
                      {.function = options.function,
                       .boot = boot,
                       .boot_patience = boot_patience,
                       .warm_requests = options.warm_requests,
                       .make_keeper = [&](FunctionSnapshot snapshot) {
                         return make_keeper(pool, options, directory, std::move(snapshot));
                       }}};
    TRY(source.await_first_answer());
    serve(options, pool, servers, &source, stop);
    return {};
  }
  auto snapshot = TRY(make_snapshot(options.function, boot));
  const auto keeper = make_keeper(pool, options, directory, std::move(snapshot));
  serve(options, pool, servers, nullptr, stop);
  return {};
}

Result<clones::Template> find_template(const std::string& directory) {
  auto from = TRY(clones::read_template(directory));
  if (from.ready_port != 0) return from;
  return fail(ErrorKind::InvalidArgument,
              "--template {}: its function serves at no port; build it with --ready-port, or of an image that exposes "
              "a port",
              directory);
}

Status run(const Options& options) {
  std::optional<clones::Template> from;
  if (!options.from.empty()) {
    auto found = TRY(find_template(options.from));
    from.emplace(std::move(found));
  }
  const auto signals = TRY(stop_signals());
  const pollfd stop{.fd = signals.get(), .events = POLLIN, .revents = 0};
  const auto directory = TRY(WorkDirectory::create(options.directory, "host-agent"));
  auto servers = TRY(listen(options));
  if (from) return serve_template(options, std::move(*from), directory.path(), servers, stop);
  return serve_function(options, directory.path(), servers, stop);
}

/// Of a function that is booted here.
void add_function(CLI::App& app, Options& options, CLI::Option* from) {
  Function& function = options.function;
  auto* const kernel = app.add_option("--kernel", function.kernel, "the function's kernel")->excludes(from);
  app.add_option("--initrd", function.initrd, "its initial RAM disk")->needs(kernel);
  app.add_option("--boot-args", function.boot_args, "its kernel's command line")->needs(kernel)->capture_default_str();
  app.add_option("--memory-mib", function.memory_mib, "its memory")->needs(kernel)->capture_default_str();
  app.add_option("--ready-path", function.ready_path, "what it is asked for until it answers")
      ->needs(kernel)
      ->capture_default_str();
  auto* const reverts =
      app.add_flag("--revert", options.reverts, "take clones back to the snapshot, instead of ending them")
          ->needs(kernel);
  app.add_flag("--branch", options.branches, "branch clones off one loaded machine, instead of loading each")
      ->needs(kernel)
      ->excludes(reverts);
  auto* const live =
      app.add_flag("--live", options.is_live, "answer from the booted machine, until a live snapshot of it has clones")
          ->needs(kernel);
  app.add_option("--warm-requests", options.warm_requests, "answers before that snapshot")
      ->needs(live)
      ->capture_default_str();
}

int run_command_line(int argc, char** argv) {
  Options options;
  CLI::App app{"Answers each HTTP request by a fresh clone of a microVM. Run as root, but for --template.",
               "host_agent"};
  app.add_option("--mayfly", options.monitor, "the monitor")->required();
  auto* const from = app.add_option("--template", options.from, "clone what mayfly-template build has made");
  add_function(app, options, from);
  app.add_option("--boot-deadline-s", options.boot_deadline_s, "how long a function may take to be ready")
      ->capture_default_str();
  app.add_option("--address", options.address, "where to listen")->capture_default_str();
  app.add_option("--port", options.port, "... 0: at any port that is free")->capture_default_str();
  app.add_option("--status-port", options.status_port, "at 127.0.0.1: a page with live numbers; 0: any that is free");
  app.add_option("--clones", options.clones, "requests at once")->check(CLI::Range(1, 200))->capture_default_str();
  app.add_option("--deadline-ms", options.deadline_ms, "how long an answer may take")->capture_default_str();
  app.add_option("--directory", options.directory, "where snapshot and sockets go")->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  if (options.from.empty() && options.function.kernel.empty()) {
    std::fputs("host_agent: --kernel KERNEL or --template DIRECTORY is needed\n", stderr);
    return 1;
  }
  const auto done = run(options);
  if (done) return 0;
  std::fprintf(stderr, "host_agent: %s\n", done.error().message.c_str());
  return 1;
}

}  // namespace
}  // namespace mayfly::host_agent

int main(int argc, char** argv) {
  try {
    return mayfly::host_agent::run_command_line(argc, argv);
  } catch (const std::exception& failure) {
    std::fprintf(stderr, "host_agent: %s\n", failure.what());
    return 1;
  }
}
