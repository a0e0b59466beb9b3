#pragma once

#include "api/client/deadline.h"
#include "api/client/top/collector.h"
#include "api/client/top/keys.h"
#include "api/client/top/rates.h"
#include "api/client/top/view.h"
#include "vmm/base/error.h"
#include "vmm/base/owned_fd.h"
#include "vmm/base/raw_terminal.h"

#include <chrono>
#include <memory>
#include <optional>
#include <vector>

/// The table on a terminal: rounds of the collector, keys, signals and resizes, all waited for at once, so that no
/// machine holds up a key. One thread; standard input and output are the terminal.
namespace mayfly::top {

/// How long a round waits for answers before what came is shown.
inline constexpr std::chrono::milliseconds kRoundPatience{500};

/// Of the terminal at `fd`; a usual one where it does not say.
[[nodiscard]] ScreenSize screen_size(int fd);

class LiveTop {
 public:
  LiveTop(Collector collector, std::chrono::milliseconds interval, double ticks_per_second, bool colours);
  /// Until it is told to quit; the exit code. Errors: the terminal does not take its settings.
  [[nodiscard]] Result<int> run();

 private:
  [[nodiscard]] Status enter_terminal();
  void serve_once();
  void begin_round();
  void end_round();
  void on_input();
  void on_signal();
  void suspend();
  void draw(bool cleared = false);
  void write(std::string_view text);

  Collector collector_;
  std::chrono::milliseconds interval_;
  double ticks_per_second_;
  OwnedFd signals_{};
  std::unique_ptr<RawTerminal> terminal_{};
  KeyReader keys_{};
  View view_;
  std::vector<Sample> before_{};
  std::vector<Row> rows_{};
  bool in_round_ = false;
  Deadline round_end_{};
  Deadline next_round_{};
  std::optional<int> exit_code_{};
};

}  // namespace mayfly::top
