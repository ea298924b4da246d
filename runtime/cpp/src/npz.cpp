#include "npz.hpp"

#include <algorithm>
#include <array>
#include <cstring>

#include "error.hpp"

namespace spoter::detail {
namespace {

[[noreturn]] void no_archive(const char *why) { throw ValueError{std::string("is no archive of arrays: ") + why}; }

// A canonical Huffman code: how many codes there are of each length, and the symbols in the order of their codes.
class Huffman {
 public:
  Huffman(const unsigned char *lengths, size_t count) {
    for (size_t i = 0; i < count; ++i) ++counts_[lengths[i]];
    counts_[0] = 0;
    int left = 1;
    for (size_t size = 1; size < 16; ++size)
      if ((left = 2 * left - counts_[size]) < 0) no_archive("a Huffman code has too many symbols");
    std::array<size_t, 16> begin = {};
    for (size_t size = 1; size < 15; ++size) begin[size + 1] = begin[size] + static_cast<size_t>(counts_[size]);
    for (size_t i = 0; i < count; ++i)
      if (lengths[i]) symbols_[begin[lengths[i]]++] = static_cast<unsigned short>(i);
  }

  template <class Bits>
  unsigned read(Bits &bits) const {
    int code = 0, first = 0, index = 0;
    for (size_t size = 1; size < 16; ++size) {
      code |= static_cast<int>(bits.take(1));
      if (code - first < counts_[size]) return symbols_[static_cast<size_t>(index + code - first)];
      index += counts_[size];
      first = (first + counts_[size]) << 1;
      code <<= 1;
    }
    no_archive("an invalid Huffman code");
  }

 private:
  std::array<int, 16> counts_ = {};
  std::array<unsigned short, 288> symbols_ = {};
};

class Inflater {
 public:
  Inflater(std::string_view packed, size_t size) : packed_(packed), size_(size) { made_.reserve(size); }

  std::string whole() {
    for (bool last = false; !last;) {
      last = take(1);
      const unsigned kind = take(2);
      if (kind == 0) stored();
      else if (kind == 1) fixed();
      else if (kind == 2) dynamic();
      else no_archive("an unknown kind of block");
    }
    if (made_.size() != size_) no_archive("another size than its header says");
    return std::move(made_);
  }

  unsigned take(unsigned count) {
    for (; held_ < count; held_ += 8) {
      if (at_ >= packed_.size()) no_archive("cut off");
      bits_ |= static_cast<uint32_t>(static_cast<unsigned char>(packed_[at_++])) << held_;
    }
    const unsigned value = bits_ & ((1U << count) - 1);
    bits_ >>= count;
    held_ -= count;
    return value;
  }

 private:
  void stored() {
    bits_ = held_ = 0;
    const unsigned size = take(16), inverse = take(16);
    if ((size ^ inverse) != 0xFFFF) no_archive("a stored block is damaged");
    if (size > packed_.size() - at_ || size > size_ - made_.size()) no_archive("cut off");
    made_.append(packed_.substr(at_, size));
    at_ += size;
  }

  void fixed() {
    unsigned char lengths[320];
    for (size_t i = 0; i < 288; ++i) lengths[i] = i < 144 ? 8 : i < 256 ? 9 : i < 280 ? 7 : 8;
    std::memset(lengths + 288, 5, 30);
    codes(Huffman(lengths, 288), Huffman(lengths + 288, 30));
  }

  void dynamic() {
    static constexpr unsigned char order[] = {16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15};
    const size_t literals = take(5) + 257, distances = take(5) + 1, count = take(4) + 4;
    if (literals > 286 || distances > 30) no_archive("too many codes");
    unsigned char lengths[320] = {};
    for (size_t i = 0; i < count; ++i) lengths[order[i]] = static_cast<unsigned char>(take(3));
    const Huffman sizes(lengths, 19);
    std::memset(lengths, 0, sizeof lengths);
    for (size_t i = 0; i < literals + distances;) {
      const unsigned symbol = sizes.read(*this);
      if (symbol < 16) {
        lengths[i++] = static_cast<unsigned char>(symbol);
        continue;
      }
      if (symbol == 16 && i == 0) no_archive("a repeated length without a first one");
      const unsigned char length = symbol == 16 ? lengths[i - 1] : 0;
      const size_t times = symbol == 16 ? 3 + take(2) : symbol == 17 ? 3 + take(3) : 11 + take(7);
      if (i + times > literals + distances) no_archive("too many lengths");
      std::memset(lengths + i, length, times);
      i += times;
    }
    if (lengths[256] == 0) no_archive("a block without an end");
    codes(Huffman(lengths, literals), Huffman(lengths + literals, distances));
  }

  void codes(const Huffman &literals, const Huffman &distances) {
    static constexpr unsigned short size_base[] = {3,  4,  5,  6,  7,  8,  9,  10, 11,  13,  15,  17,  19,  23, 27,
                                                   31, 35, 43, 51, 59, 67, 83, 99, 115, 131, 163, 195, 227, 258};
    static constexpr unsigned char size_bits[] = {0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2,
                                                  2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0};
    static constexpr unsigned short back_base[] = {1,    2,    3,    4,    5,    7,    9,    13,    17,    25,
                                                   33,   49,   65,   97,   129,  193,  257,  385,   513,   769,
                                                   1025, 1537, 2049, 3073, 4097, 6145, 8193, 12289, 16385, 24577};
    while (true) {
      unsigned symbol = literals.read(*this);
      if (symbol == 256) return;
      if (symbol < 256) {
        if (made_.size() == size_) no_archive("more than its header says");
        made_ += static_cast<char>(symbol);
        continue;
      }
      if ((symbol -= 257) >= 29) no_archive("an unknown length");
      const size_t size = size_base[symbol] + take(size_bits[symbol]);
      const unsigned distance = distances.read(*this);
      if (distance >= 30) no_archive("an unknown distance");
      const size_t back = back_base[distance] + take(distance < 2 ? 0 : distance / 2 - 1);
      if (back > made_.size() || size > size_ - made_.size()) no_archive("a copy from outside");
      for (size_t i = 0; i < size; ++i) made_ += made_[made_.size() - back];
    }
  }

  std::string_view packed_;
  size_t size_;
  std::string made_;
  size_t at_ = 0;
  uint32_t bits_ = 0;
  unsigned held_ = 0;
};

uint32_t crc32(std::string_view bytes) {
  static const std::array<uint32_t, 256> table = [] {
    std::array<uint32_t, 256> made = {};
    for (uint32_t i = 0; i < 256; ++i) {
      uint32_t value = i;
      for (int k = 0; k < 8; ++k) value = value & 1 ? 0xEDB88320 ^ value >> 1 : value >> 1;
      made[i] = value;
    }
    return made;
  }();
  uint32_t crc = ~0U;
  for (const char byte : bytes) crc = table[(crc ^ static_cast<unsigned char>(byte)) & 0xFF] ^ crc >> 8;
  return ~crc;
}

// Little-endian numbers of an archive, within its bounds.
class Reader {
 public:
  Reader(std::string_view bytes, size_t at) : bytes_(bytes), at_(at) {}

  uint64_t number(size_t size) {
    uint64_t value = 0;
    const std::string_view read = take(size);
    for (size_t i = 0; i < size; ++i) value |= uint64_t(static_cast<unsigned char>(read[i])) << (8 * i);
    return value;
  }

  std::string_view take(size_t size) {
    if (at_ > bytes_.size() || size > bytes_.size() - at_) no_archive("cut off");
    return bytes_.substr((at_ += size) - size, size);
  }

 private:
  std::string_view bytes_;
  size_t at_;
};

struct Member {
  std::string_view name;
  unsigned flags, method;
  uint32_t crc;
  size_t packed, size, at;
};

std::vector<Member> members_of(std::string_view archive) {
  const size_t end = archive.rfind("PK\x05\x06");
  if (end == archive.npos) no_archive("File is not a zip file");
  Reader directory(archive, end + 10);
  const size_t count = directory.number(2);
  directory.number(4);
  Reader entries(archive, directory.number(4));
  std::vector<Member> members;
  for (size_t i = 0; i < count; ++i) {
    if (entries.take(4) != "PK\x01\x02") no_archive("its directory is damaged");
    entries.take(4);
    Member member = {};
    member.flags = static_cast<unsigned>(entries.number(2));
    member.method = static_cast<unsigned>(entries.number(2));
    entries.take(4);
    member.crc = static_cast<uint32_t>(entries.number(4));
    member.packed = entries.number(4);
    member.size = entries.number(4);
    const size_t name = entries.number(2), extra = entries.number(2), comment = entries.number(2);
    entries.take(8);
    member.at = entries.number(4);
    member.name = entries.take(name);
    entries.take(extra + comment);
    members.push_back(member);
  }
  return members;
}

std::string content_of(std::string_view archive, const Member &member) {
  if (member.flags & 1) no_archive("a member is encrypted");
  Reader local(archive, member.at);
  if (local.take(4) != "PK\x03\x04") no_archive("a member's header is damaged");
  local.take(22);
  const size_t name = local.number(2), extra = local.number(2);
  local.take(name + extra);
  const std::string_view packed = local.take(member.packed);
  if (member.method != 0 && member.method != 8) no_archive("packed in an unknown way");
  if (member.method == 0 && member.size != member.packed) no_archive("a stored member has two sizes");
  std::string content = member.method ? inflate(packed, member.size) : std::string(packed);
  if (crc32(content) != member.crc) no_archive("Bad CRC-32 of a member");
  return content;
}

// The value of a name in the header of a .npy file, which is a Python literal as numpy writes it.
std::string_view value_of(std::string_view header, std::string_view name, char end) {
  const size_t place = header.find("'" + std::string(name) + "': ");
  if (place == header.npos) throw ValueError{"a wrong header: no " + std::string(name)};
  const size_t begin = place + name.size() + 4, stop = header.find(end, begin);
  if (stop == header.npos) throw ValueError{"a wrong header: " + std::string(name)};
  return header.substr(begin, stop - begin);
}

Array array_from(std::string content) {
  const std::string_view bytes = content;
  if (bytes.substr(0, 6) != "\x93NUMPY" || bytes.size() < 10) throw ValueError{"a wrong header: no .npy file"};
  const unsigned major = static_cast<unsigned char>(bytes[6]);
  if (major != 1 && major != 2) throw ValueError{"version " + std::to_string(major) + " of the .npy format is unknown"};
  Reader sizes(bytes, 8);
  const size_t head = sizes.number(major == 1 ? 2 : 4);
  const std::string_view header = sizes.take(head);
  Array array;
  const std::string_view type = value_of(header, "descr", ',');
  if (type.size() < 3 || type.front() != '\'' || type.back() != '\'')
    throw ValueError{"holds fields, expected numbers"};
  array.type = std::string(type.substr(1, type.size() - 2));
  const bool known = array.type == "<f4" || array.type == "<i4";
  if (!known)
    throw ValueError{"poses, lengths and logits hold " + array.type + ", expected float32, int32 and float32"};
  if (value_of(header, "fortran_order", ',') != "False") throw ValueError{"is in Fortran's order"};
  std::string_view shape = value_of(header, "shape", ')');
  if (shape.empty() || shape.front() != '(') throw ValueError{"a wrong header: shape"};
  shape.remove_prefix(1);
  size_t count = 4;
  while (!shape.empty()) {
    size_t size = 0, digits = 0;
    for (; digits < shape.size() && shape[digits] >= '0' && shape[digits] <= '9' && digits < 10; ++digits)
      size = 10 * size + static_cast<size_t>(shape[digits] - '0');
    if (digits == 0) throw ValueError{"a wrong header: shape"};
    shape.remove_prefix(digits);
    while (!shape.empty() && (shape.front() == ',' || shape.front() == ' ')) shape.remove_prefix(1);
    array.shape.push_back(size);
    if (size && count > bytes.size() / size) count = bytes.size() + 1;  // too large; no overflow
    else count *= size;
  }
  const size_t begin = (major == 1 ? 10 : 12) + head;
  if (count > bytes.size() - begin) throw ValueError{"is cut off"};
  content.erase(0, begin);
  content.resize(count);
  array.content = std::move(content);
  return array;
}

}  // namespace

std::string inflate(std::string_view packed, size_t size) { return Inflater(packed, size).whole(); }

std::vector<Array> read_arrays(std::string_view archive, const std::vector<std::string> &names, size_t most_bytes) {
  const std::vector<Member> members = members_of(archive);
  std::vector<const Member *> wanted;
  std::string missing;
  size_t total = 0;
  for (const std::string &name : names) {
    const auto found =
        std::find_if(members.rbegin(), members.rend(), [&](const Member &m) { return m.name == name + ".npy"; });
    if (found == members.rend()) missing += (missing.empty() ? "" : ", ") + name;
    else wanted.push_back(&*found), total += found->size;
  }
  if (!missing.empty()) throw ValueError{"no array " + missing + " in it"};
  if (total > most_bytes)
    throw ValueError{std::to_string(total) + " bytes when unpacked, expected at most " + std::to_string(most_bytes)};
  std::vector<Array> arrays;
  for (const Member *member : wanted) arrays.push_back(array_from(content_of(archive, *member)));
  return arrays;
}

}  // namespace spoter::detail
