#pragma once

#include "tests/support/child_process.h"
#include "tests/support/monitor.h"

#include <unistd.h>

#include <string>

#include <gtest/gtest.h>

namespace mayfly::testing {

/// An outside page server, listening.
class PageServerProcess {
 public:
  PageServerProcess(const std::string& socket, const std::string& memory,
                    const std::string& program = page_server_binary())
      : process_({program, socket, memory}, {.in = -1, .out = out_.write.get(), .err = STDERR_FILENO}) {
    out_.write.reset();
    std::string said;
    read_until(out_.read.get(), said, "listening");
  }
  /// What it says from here on, of a server that ends by itself.
  [[nodiscard]] std::string said_to_its_end() {
    std::string said;
    read_until(out_.read.get(), said, "");
    EXPECT_EQ(process_.wait(), 0);
    return said;
  }

 private:
  Pipe out_;
  ChildProcess process_;
};

}  // namespace mayfly::testing
