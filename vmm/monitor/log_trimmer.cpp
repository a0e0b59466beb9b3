#include "vmm/monitor/log_trimmer.h"

#include <utility>

namespace mayfly {

LogTrimmer::LogTrimmer(EventLoop& loop, Log& log) : loop_(loop), log_(log) {
  log_.on_trim_wanted([this] { loop_.post([this] { begin(); }); });
}

LogTrimmer::~LogTrimmer() { log_.on_trim_wanted({}); }

void LogTrimmer::begin() {
  if (trim_) return;
  trim_ = log_.begin_trim();
  if (trim_) loop_.fallocate(trim_->file.get(), kFreeMode, trim_->range.offset, trim_->range.length, operation_);
}

void LogTrimmer::on_freed(int result) {
  const auto done = std::exchange(trim_, std::nullopt);
  log_.end_trim(*done, result == 0);
  begin();  // of another file, which has filled meanwhile
}

}  // namespace mayfly
