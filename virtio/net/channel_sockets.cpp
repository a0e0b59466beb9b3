#include "virtio/net/channel_sockets.h"

#include "vmm/base/error.h"
#include "vmm/base/unix_socket.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <utility>

namespace mayfly {

ChannelSockets::ChannelSockets(std::vector<Channel> channels, EventLoop& loop, Log& log, std::string name)
    : channels_(std::move(channels)), loop_(loop), log_(log), name_(std::move(name)) {}

std::size_t ChannelSockets::taken_count() const noexcept {
  return static_cast<std::size_t>(std::ranges::count_if(streams_, [](const Stream& each) { return !each.is_free(); }));
}

// --- Connections -----------------------------------------------------------------------------------------------------

std::expected<HostStream*, HostStreams::Refusal> ChannelSockets::open(std::uint16_t port) noexcept {
  const auto channel = std::ranges::find(channels_, port, &Channel::port);
  if (channel == channels_.end()) return std::unexpected(Refusal::NoChannel);
  const auto place = std::ranges::find_if(streams_, &Stream::is_free);
  if (place == streams_.end()) {
    // Hosts that do not take what was said before a guest's end must not keep the places of others.
    for (Stream& stream : streams_)
      if (stream.is_closing()) stream.stop_flushing();
    close_soon();
    return std::unexpected(Refusal::Busy);
  }
  if (channel->listener != nullptr) {
    place->begin(*this, *channel->listener);
    return &*place;
  }
  auto socket = connect(channel->uds_path);
  if (!socket) return std::unexpected(socket.error());
  place->begin(*this, std::move(*socket));
  return &*place;
}

std::expected<OwnedFd, HostStreams::Refusal> ChannelSockets::connect(const std::string& path) noexcept {
  OwnedFd socket{::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)};
  const sockaddr_un address = unix_address(path);
  if (socket && ::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0) {
    // From here on the ring waits.
    if (::fcntl(socket.get(), F_SETFL, 0) == 0) return socket;
  }
  if (errno == EAGAIN) return std::unexpected(Refusal::Busy);
  if (log_rate_.allow())
    log_.warning("{}: the guest asked for a channel, and {} cannot be connected to: {}", name_, path,
                 errno_text(errno));
  return std::unexpected(Refusal::NoHost);
}

void ChannelSockets::close_soon() {
  loop_.post([this] { caller_([this] { sweep(); }); });
}

void ChannelSockets::sweep() noexcept {
  for (Stream& stream : streams_)
    if (stream.is_closing()) stream.go_on_closing();
}

// --- A stream --------------------------------------------------------------------------------------------------------

void ChannelSockets::Stream::take_place(ChannelSockets& owner) {
  owner_ = &owner;
  in_ = std::make_unique_for_overwrite<std::uint8_t[]>(kPiece);
  out_ = std::make_unique_for_overwrite<std::uint8_t[]>(kBytes);
  in_length_ = out_length_ = 0;
  ended_ = gone_ = finishing_ = finished_ = closing_ = flushes_ = false;
  for (const auto& [flight, kind] : {std::pair{&read_, Kind::Read}, std::pair{&write_, Kind::Write}}) {
    flight->stream = this;
    flight->kind = kind;
    flight->cancelled = false;
  }
}

void ChannelSockets::Stream::begin(ChannelSockets& owner, OwnedFd socket) {
  take_place(owner);
  socket_ = std::move(socket);
  read();
}

void ChannelSockets::Stream::begin(ChannelSockets& owner, ChannelListener& listener) {
  take_place(owner);
  waits_at_ = &listener;
  listener.wait(*this);
}

void ChannelSockets::Stream::take_host(const std::function<OwnedFd()>& accept) noexcept {
  owner_->caller_([&] {
    if (closing_ || gone_) return;
    socket_ = accept();
    if (!socket_) return;
    waits_at_ = nullptr;
    read();
    if (out_length_ > 0) write();
  });
}

void ChannelSockets::Stream::read() noexcept {
  read_.in_flight = true;
  owner_->loop_.read(socket_.get(), std::as_writable_bytes(std::span{in_.get(), kPiece}), Ring::kNoOffset, read_);
}

void ChannelSockets::Stream::take() noexcept {
  in_length_ = 0;
  if (!ended_ && !closing_ && !read_.in_flight) read();
}

void ChannelSockets::Stream::push(std::span<const std::uint8_t> bytes) noexcept {
  ensure(bytes.size() <= room() && !finishing_, "there is room, and no end");
  std::ranges::copy(bytes, out_.get() + out_length_);
  out_length_ += bytes.size();
  if (waits_at_ == nullptr && !write_.in_flight && !gone_) write();
}

void ChannelSockets::Stream::write() noexcept {
  write_.in_flight = true;
  owner_->loop_.write(socket_.get(), std::as_bytes(std::span{out_.get(), out_length_}), Ring::kNoOffset, write_);
}

void ChannelSockets::Stream::finish() noexcept {
  finishing_ = true;
  if (waits_at_ == nullptr) return end_writing();
  // Half of a connection, on which nothing was said, is of no use to a host that comes, and would keep its place.
  if (out_length_ == 0) ended_ = gone_ = true;
}

void ChannelSockets::Stream::end_writing() noexcept {
  if (!finishing_ || finished_ || out_length_ > 0 || gone_) return;
  finished_ = true;
  (void)::shutdown(socket_.get(), SHUT_WR);  // fails where the host has gone, which the read finds out
}

// --- Its end ---------------------------------------------------------------------------------------------------------

/// A reset of the driver may come from a vCPU's thread, which has no business with the ring.
void ChannelSockets::Stream::close(bool flush) noexcept {
  closing_ = true;
  flushes_ = flush;
  owner_->close_soon();
}

void ChannelSockets::Stream::go_on_closing() noexcept {
  if (ChannelListener* const listener = std::exchange(waits_at_, nullptr)) {
    listener->forget(*this);
    gone_ = true;  // nobody will take what it said
  }
  if (flushes_ && out_length_ > 0 && !gone_) return;  // the write's completion goes on
  bool busy = false;
  for (Flight* flight : {&read_, &write_}) {
    if (!flight->in_flight) continue;
    busy = true;
    if (!std::exchange(flight->cancelled, true)) owner_->loop_.cancel(*flight);
  }
  if (busy) return;
  socket_.reset();
  in_.reset();
  out_.reset();
  in_length_ = out_length_ = 0;
  closing_ = false;
  owner_ = nullptr;
}

// --- Completions -----------------------------------------------------------------------------------------------------

void ChannelSockets::Stream::Flight::on_complete(int result, bool /*more*/) noexcept {
  Stream& owner = *stream;
  owner.owner_->caller_([this, result] {
    in_flight = false;
    stream->on_done(kind, result);
  });
}

void ChannelSockets::Stream::on_done(Kind kind, int result) noexcept {
  if (kind == Kind::Read)
    on_read(result);
  else
    on_written(result);
  if (closing_) go_on_closing();
}

void ChannelSockets::Stream::on_read(int result) noexcept {
  if (result == -EINTR && !closing_) return read();
  if (result > 0) {
    in_length_ = static_cast<std::size_t>(result);
    return;
  }
  ended_ = true;
  // The ring's poll would tell an end of one direction as well, and so at once.
  pollfd state{.fd = socket_.get(), .events = 0, .revents = 0};
  gone_ = result < 0 || (::poll(&state, 1, 0) == 1 && !finished_);
}

void ChannelSockets::Stream::on_written(int result) noexcept {
  if (result > 0) {
    const auto written = static_cast<std::size_t>(result);
    std::copy(out_.get() + written, out_.get() + out_length_, out_.get());
    out_length_ -= written;
  } else if (result != -EINTR) {
    gone_ = true;
    out_length_ = 0;
    return;
  }
  if (out_length_ > 0 && !(closing_ && !flushes_)) return write();
  end_writing();
}

}  // namespace mayfly
