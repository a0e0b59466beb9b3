#include "rootfs-tools/image/layer_stream.h"

#include "vmm/base/try.h"

#include <zlib.h>
#include <zstd.h>

#include <algorithm>
#include <array>
#include <string_view>
#include <utility>

namespace mayfly::image {

/// A decompressor: takes from `input` and fills `output`.
class Unpacker {
 public:
  Unpacker() = default;
  Unpacker(const Unpacker&) = delete;
  Unpacker& operator=(const Unpacker&) = delete;
  virtual ~Unpacker() = default;
  /// How much of `output` it filled; what it took is gone from `input`. Where it does neither, it needs more input.
  [[nodiscard]] virtual Result<std::size_t> unpack(std::span<const std::byte>& input, std::span<std::byte> output) = 0;
  /// Whether the input may end here.
  [[nodiscard]] virtual bool is_whole() const noexcept = 0;
};

namespace {

constexpr std::size_t kUnpackAtOnce = std::size_t{256} << 10;
constexpr std::string_view kDamaged = "it is no whole {} stream ({}); copy or fetch the image again";

/// One member after the other: some tools pack pieces in parallel, or so that they can be fetched one by one.
class GzipUnpacker final : public Unpacker {
 public:
  GzipUnpacker() { ready_ = ::inflateInit2(&stream_, MAX_WBITS + 16) == Z_OK; }
  GzipUnpacker(const GzipUnpacker&) = delete;
  GzipUnpacker& operator=(const GzipUnpacker&) = delete;
  ~GzipUnpacker() override { ::inflateEnd(&stream_); }

  Result<std::size_t> unpack(std::span<const std::byte>& input, std::span<std::byte> output) override {
    if (!ready_) return fail(ErrorKind::System, "there is no memory to unpack it");
    if (at_end_ && input.empty()) return 0;
    if (at_end_ && ::inflateReset(&stream_) != Z_OK) return fail(ErrorKind::System, "it cannot be unpacked further");
    at_end_ = false;
    // zlib's interface is of a time before const.
    stream_.next_in = reinterpret_cast<Bytef*>(const_cast<std::byte*>(input.data()));
    stream_.avail_in = static_cast<uInt>(input.size());
    stream_.next_out = reinterpret_cast<Bytef*>(output.data());
    stream_.avail_out = static_cast<uInt>(output.size());
    const int status = ::inflate(&stream_, Z_NO_FLUSH);
    if (status != Z_OK && status != Z_STREAM_END && status != Z_BUF_ERROR)
      return fail(ErrorKind::InvalidArgument, kDamaged, "gzip", stream_.msg != nullptr ? stream_.msg : "bad data");
    at_end_ = status == Z_STREAM_END;
    input = input.last(stream_.avail_in);
    return output.size() - stream_.avail_out;
  }
  bool is_whole() const noexcept override { return at_end_; }

 private:
  z_stream stream_{};
  bool ready_ = false;
  bool at_end_ = false;
};

class ZstdUnpacker final : public Unpacker {
 public:
  Result<std::size_t> unpack(std::span<const std::byte>& input, std::span<std::byte> output) override {
    if (context_ == nullptr) return fail(ErrorKind::System, "there is no memory to unpack it");
    if (at_end_ && input.empty()) return 0;  // it would begin to wait for another frame
    ZSTD_inBuffer from{input.data(), input.size(), 0};
    ZSTD_outBuffer to{output.data(), output.size(), 0};
    const std::size_t status = ::ZSTD_decompressStream(context_.get(), &to, &from);
    if (::ZSTD_isError(status) != 0)
      return fail(ErrorKind::InvalidArgument, kDamaged, "zstd", ::ZSTD_getErrorName(status));
    at_end_ = status == 0;
    input = input.subspan(from.pos);
    return to.pos;
  }
  bool is_whole() const noexcept override { return at_end_; }

 private:
  struct Free {
    void operator()(ZSTD_DCtx* context) const noexcept { ::ZSTD_freeDCtx(context); }
  };
  std::unique_ptr<ZSTD_DCtx, Free> context_{::ZSTD_createDCtx()};
  bool at_end_ = false;
};

}  // namespace

Packing packing_of(std::span<const std::byte> begin) noexcept {
  const std::string_view text{reinterpret_cast<const char*>(begin.data()), begin.size()};
  if (text.starts_with("\x1f\x8b")) return Packing::Gzip;
  if (text.starts_with("\x28\xb5\x2f\xfd")) return Packing::Zstd;
  // A skippable frame of zstd may come first.
  if (text.size() >= 4 && (text[0] & 0xF0) == 0x50 && text.substr(1, 3) == "\x2a\x4d\x18") return Packing::Zstd;
  if (text.starts_with(std::string_view{"\xfd"
                                        "7zXZ\0",
                                        6}))
    return Packing::Xz;
  if (text.starts_with("BZh")) return Packing::Bzip2;
  return Packing::Plain;
}

LayerStream::LayerStream(FilePart part, const ImageLimits& limits, std::uint64_t& budget)
    : source_(std::move(part)), limits_(limits), budget_(budget) {}

LayerStream::~LayerStream() = default;

Status LayerStream::refill() {
  input_ = TRY(source_.next());
  packed_hash_.update(input_);
  return {};
}

Status LayerStream::begin() {
  begun_ = true;
  TRY(refill());
  switch (packing_of(input_)) {
    case Packing::Plain:
      return {};
    case Packing::Gzip:
      unpacker_ = std::make_unique<GzipUnpacker>();
      break;
    case Packing::Zstd:
      unpacker_ = std::make_unique<ZstdUnpacker>();
      break;
    case Packing::Xz:
    case Packing::Bzip2:
      return fail(ErrorKind::Unsupported,
                  "it is packed by xz or bzip2; images have gzip, zstd or none: pack it anew, or unpack it");
  }
  output_.resize(kUnpackAtOnce);
  return {};
}

Status LayerStream::count(std::uint64_t bytes) {
  unpacked_bytes_ += bytes;
  if (bytes > budget_)
    return fail(ErrorKind::TooLarge, "the layers unpack to over {} bytes; --max-size raises the limit",
                limits_.max_bytes);
  budget_ -= bytes;
  // What was read and not unpacked yet counts as unpacked: a bomb is refused a little later for it.
  const std::uint64_t packed = source_.done();
  if (unpacked_bytes_ > kRatioCounts && unpacked_bytes_ / limits_.max_ratio > packed)
    return fail(
        ErrorKind::TooLarge,
        "{} bytes of it unpack to {}, over {} times as many; --max-ratio raises the limit, if this is no attack",
        packed, unpacked_bytes_, limits_.max_ratio);
  return {};
}

Result<std::span<const std::byte>> LayerStream::next() {
  if (!begun_) TRY(begin());
  if (ended_) return std::span<const std::byte>{};
  std::span<const std::byte> given;
  if (unpacker_ == nullptr) {
    if (input_.empty()) TRY(refill());
    given = std::exchange(input_, {});
    ended_ = given.empty();
  }
  while (unpacker_ != nullptr && given.empty() && !ended_) {
    const std::size_t before = input_.size();
    const std::size_t count = TRY(unpacker_->unpack(input_, output_));
    given = std::span{output_}.first(count);
    if (count > 0 || input_.size() < before) continue;
    TRY(refill());
    if (!input_.empty()) continue;
    if (!unpacker_->is_whole()) return fail(ErrorKind::InvalidArgument, kDamaged, "gzip or zstd", "it is cut off");
    ended_ = true;
  }
  TRY(count(given.size()));
  unpacked_hash_.update(given);
  return given;
}

Status LayerStream::drain() {
  for (;;) {
    const auto bytes = TRY(next());
    if (bytes.empty()) return {};
  }
}

}  // namespace mayfly::image
