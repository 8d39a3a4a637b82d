// Runs the model of one bundle on ONNX Runtime, once. `edgekd deploy cpp` wrote this file.
//
//   edgekd_model [BUNDLE] [--input NAME=FILE]... [--shape NAME=1,3,32,32]... [--batch N] [--seed S]
//                [--threads N] [--out FOLDER]
//
// BUNDLE is a folder with the files of kFiles below, by default `bundle` beside the program. Every
// one is checked for its length and SHA-256, and the model is opened from the very bytes that were
// hashed. An input comes as a file of its values, in the machine's own byte order (little-endian on
// everything edgekd knows), C order; without a file it is made from the seed. Outputs are printed
// with all their digits, or written to FOLDER/output_0.bin and on in the same form as inputs.
//
// Exit codes: 0 done, 2 wrong usage or input, with one line on stderr.

#define ORT_API_MANUAL_INIT
#include <onnxruntime_cxx_api.h>

#include <array>
#include <cinttypes>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <filesystem>
#include <fstream>
#include <limits>
#include <map>
#include <new>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace {

struct File {
  const char* name;
  std::uint64_t bytes;
  const char* sha256;
};

struct Tensor {
  std::string name;
  ONNXTensorElementDataType type;
  std::vector<std::int64_t> shape;  // -1: any length
};

// ---- What the bundle was when this was written ----
//@BUNDLE@
// ---- The same for every bundle from here on ----

[[noreturn]] void fail(const std::string& message) { throw std::runtime_error(message); }

// SHA-256 (NIST, FIPS 180-4, sections 5 and 6.2).
class Sha256 {
 public:
  static std::string of(const std::vector<char>& content) {
    Sha256 hash;
    const auto* bytes = reinterpret_cast<const unsigned char*>(content.data());
    const std::size_t whole = content.size() / 64 * 64;
    for (std::size_t at = 0; at < whole; at += 64) hash.add(bytes + at);
    // The rest, one bit, zeros, and the length in bits: one block, or two.
    std::array<unsigned char, 128> last{};
    const std::size_t rest = content.size() - whole;
    if (rest > 0) std::memcpy(last.data(), bytes + whole, rest);
    last[rest] = 0x80;
    const std::size_t end = rest < 56 ? 64 : 128;
    const std::uint64_t bits = std::uint64_t{content.size()} * 8;
    for (std::size_t i = 0; i < 8; ++i) {
      last[end - 1 - i] = static_cast<unsigned char>(bits >> (8 * i));
    }
    for (std::size_t at = 0; at < end; at += 64) hash.add(last.data() + at);
    return hash.hex();
  }

 private:
  static std::uint32_t turn(std::uint32_t word, int by) { return word >> by | word << (32 - by); }

  void add(const unsigned char* block) {
    std::array<std::uint32_t, 64> w{};
    for (std::size_t i = 0; i < 16; ++i) {
      w[i] = std::uint32_t{block[4 * i]} << 24 | std::uint32_t{block[4 * i + 1]} << 16 |
             std::uint32_t{block[4 * i + 2]} << 8 | std::uint32_t{block[4 * i + 3]};
    }
    for (std::size_t i = 16; i < 64; ++i) {
      const std::uint32_t a = w[i - 15], b = w[i - 2];
      w[i] = w[i - 16] + w[i - 7] + (turn(a, 7) ^ turn(a, 18) ^ a >> 3) +
             (turn(b, 17) ^ turn(b, 19) ^ b >> 10);
    }
    auto s = state_;
    for (std::size_t i = 0; i < 64; ++i) {
      const std::uint32_t first = s[7] + (turn(s[4], 6) ^ turn(s[4], 11) ^ turn(s[4], 25)) +
                                  ((s[4] & s[5]) ^ (~s[4] & s[6])) + kRound[i] + w[i];
      const std::uint32_t second = (turn(s[0], 2) ^ turn(s[0], 13) ^ turn(s[0], 22)) +
                                   ((s[0] & s[1]) ^ (s[0] & s[2]) ^ (s[1] & s[2]));
      s = {first + second, s[0], s[1], s[2], s[3] + first, s[4], s[5], s[6]};
    }
    for (std::size_t i = 0; i < 8; ++i) state_[i] += s[i];
  }

  std::string hex() const {
    std::string text;
    for (const std::uint32_t word : state_) {
      for (int by = 28; by >= 0; by -= 4) text += "0123456789abcdef"[word >> by & 15];
    }
    return text;
  }

  std::array<std::uint32_t, 8> state_{0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                      0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  static constexpr std::array<std::uint32_t, 64> kRound{
      0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4,
      0xab1c5ed5, 0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe,
      0x9bdc06a7, 0xc19bf174, 0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f,
      0x4a7484aa, 0x5cb0a9dc, 0x76f988da, 0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7,
      0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967, 0x27b70a85, 0x2e1b2138, 0x4d2c6dfc,
      0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85, 0xa2bfe8a1, 0xa81a664b,
      0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070, 0x19a4c116,
      0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
      0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7,
      0xc67178f2};
};

// A file that changes while it is read is found too: what is hashed is what was read.
std::vector<char> read_file(const std::filesystem::path& path, const std::string& name) {
  std::ifstream file(path, std::ios::binary | std::ios::ate);
  if (!file || std::filesystem::is_directory(path)) fail(name + " is missing or cannot be read");
  std::vector<char> content(static_cast<std::size_t>(file.tellg()));
  file.seekg(0);
  if (!file.read(content.data(), static_cast<std::streamsize>(content.size()))) {
    fail(name + " cannot be read");
  }
  return content;
}

std::vector<char> read_checked(const std::filesystem::path& bundle, const File& file) {
  const std::filesystem::path path = bundle / file.name;
  const std::string name = path.string();
  std::error_code error;
  const std::uint64_t there = std::filesystem::file_size(path, error);
  if (error) fail(name + " is missing; copy the bundle again");
  if (there != file.bytes) {  // before anything is read: a giant file must not fill the memory
    fail(name + (there < file.bytes ? " is truncated (" : " is too long (") +
         std::to_string(there) + " bytes, not " + std::to_string(file.bytes) +
         "); copy the bundle again");
  }
  std::vector<char> content = read_file(path, name);
  if (content.size() != file.bytes || Sha256::of(content) != file.sha256) {
    fail(name + " was altered (its SHA-256 differs); copy the bundle again");
  }
  return content;
}

struct Arguments {
  std::filesystem::path bundle;
  std::map<std::string, std::string> inputs, shapes;
  std::int64_t batch = 1, seed = 0, threads = 0;
  std::string out;
};

std::int64_t number(const std::string& text, std::int64_t least) {
  std::size_t end = 0;
  std::int64_t value = 0;
  try {
    value = std::stoll(text, &end);
  } catch (const std::exception&) {
    end = 0;
  }
  if (end == 0 || end != text.size() || value < least ||
      value > std::numeric_limits<std::int32_t>::max()) {
    fail("'" + text + "' is not a whole number from " + std::to_string(least));
  }
  return value;
}

Arguments parse(int count, char** words) {
  Arguments found;
  found.bundle = std::filesystem::path(words[0]).parent_path() / "bundle";
  bool named = false;
  for (int i = 1; i < count; ++i) {
    const std::string word = words[i];
    if (word.rfind("--", 0) != 0) {
      if (named) fail("give one bundle, not also '" + word + "'");
      found.bundle = word;
      named = true;
      continue;
    }
    if (i + 1 == count) fail(word + " needs a value, or is unknown");
    const std::string value = words[++i];
    if (word == "--input" || word == "--shape") {
      // A name may have '=' in it, so the longest name that fits is taken.
      const Tensor* which = nullptr;
      for (const Tensor& tensor : kInputs) {
        const bool fits = value.rfind(tensor.name + "=", 0) == 0;
        if (fits && (!which || tensor.name.size() > which->name.size())) which = &tensor;
      }
      if (!which) fail(word + " '" + value + "' does not start with an input's name and '='");
      auto& values = word == "--input" ? found.inputs : found.shapes;
      values[which->name] = value.substr(which->name.size() + 1);
    } else if (word == "--batch") {
      found.batch = number(value, 1);
    } else if (word == "--seed") {
      found.seed = number(value, 0);
    } else if (word == "--threads") {
      found.threads = number(value, 1);
    } else if (word == "--out") {
      found.out = value;
    } else {
      fail("there is no option " + word);
    }
  }
  return found;
}

std::size_t size_of(ONNXTensorElementDataType type) {
  switch (type) {
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL:
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8:
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8:
      return 1;
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT16:
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT16:
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16:
      return 2;
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32:
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT32:
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT:
      return 4;
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64:
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT64:
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE:
      return 8;
    default:
      fail("the model has a tensor of a type that a bundle cannot have");
  }
}

std::string text_of(const std::vector<std::int64_t>& shape) {
  std::string text = "[";
  for (std::size_t i = 0; i < shape.size(); ++i) {
    text += (i ? ", " : "") + (shape[i] < 0 ? std::string("N") : std::to_string(shape[i]));
  }
  return text + "]";
}

std::size_t elements(const std::vector<std::int64_t>& shape, std::size_t each) {
  std::size_t count = 1;
  for (const std::int64_t length : shape) {
    const auto size = static_cast<std::size_t>(length);
    if (size && count > std::numeric_limits<std::ptrdiff_t>::max() / size / each) {
      fail("the shape " + text_of(shape) + " is too large");
    }
    count *= size;
  }
  return count;
}

std::vector<std::int64_t> shape_of(const Tensor& tensor, const Arguments& arguments,
                                   std::size_t file_bytes) {
  std::vector<std::int64_t> shape = tensor.shape;
  const auto given = arguments.shapes.find(tensor.name);
  if (given != arguments.shapes.end()) {
    std::vector<std::int64_t> wanted;
    std::string rest = given->second + ",";
    for (std::size_t comma; (comma = rest.find(',')) != std::string::npos;) {
      wanted.push_back(number(rest.substr(0, comma), 1));
      rest.erase(0, comma + 1);
    }
    bool fits = wanted.size() == shape.size();
    for (std::size_t i = 0; fits && i < shape.size(); ++i) {
      fits = shape[i] < 0 || shape[i] == wanted[i];
    }
    if (!fits) fail("input " + tensor.name + " is " + text_of(shape) + ", not " + given->second);
    return wanted;
  }
  for (std::size_t i = 1; i < shape.size(); ++i) {
    if (shape[i] < 0) fail("input " + tensor.name + " is " + text_of(shape) + ": give --shape");
  }
  if (!shape.empty() && shape[0] < 0) {
    shape[0] = 1;
    const std::size_t sample = elements(shape, 8) * size_of(tensor.type);
    const auto samples = static_cast<std::int64_t>(file_bytes / sample);
    shape[0] = samples > 0 ? samples : arguments.batch;
  }
  return shape;
}

// Numbers from a seed, the same on every machine (Steele, Lea and Flood, "Fast Splittable
// Pseudorandom Number Generators", OOPSLA 2014: SplitMix64).
class Numbers {
 public:
  explicit Numbers(std::uint64_t seed) : state_(seed) {}

  std::uint64_t next() {
    std::uint64_t z = state_ += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
  }

 private:
  std::uint64_t state_;
};

template <class T>
void put(std::vector<char>& bytes, std::size_t at, T value) {
  std::memcpy(bytes.data() + at * sizeof value, &value, sizeof value);
}

// Floats are multiples of 1/1024 from -1 to below 1, which FP16 holds exactly; whole numbers are 0
// or 1, since a larger one could be an index of nothing.
std::vector<char> made(const Tensor& tensor, std::size_t count, Numbers& numbers) {
  const std::size_t each = size_of(tensor.type);
  std::vector<char> bytes(count * each);
  for (std::size_t i = 0; i < count; ++i) {
    const std::uint64_t drawn = numbers.next();
    const auto real = static_cast<float>(static_cast<std::int64_t>(drawn >> 53) - 1024) / 1024.0f;
    if (tensor.type == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT) {
      put(bytes, i, real);
    } else if (tensor.type == ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE) {
      put(bytes, i, static_cast<double>(real));
    } else if (tensor.type == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16) {
      put(bytes, i, Ort::Float16_t(real));
    } else {
      bytes[i * each] = static_cast<char>(drawn >> 63);  // the lowest byte comes first
    }
  }
  return bytes;
}

template <class T>
T got(const char* bytes, std::size_t at) {
  T value;
  std::memcpy(&value, bytes + at * sizeof value, sizeof value);
  return value;
}

void print_value(ONNXTensorElementDataType type, const char* bytes, std::size_t i) {
  switch (type) {  // %.9g and %.17g give back the very float and double
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT:
      std::printf("%.9g", static_cast<double>(got<float>(bytes, i)));
      break;
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE:
      std::printf("%.17g", got<double>(bytes, i));
      break;
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16:
      std::printf("%.9g", static_cast<double>(got<Ort::Float16_t>(bytes, i).ToFloat()));
      break;
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL:
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8:
      std::printf("%u", unsigned{got<std::uint8_t>(bytes, i)});
      break;
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8:
      std::printf("%d", int{got<std::int8_t>(bytes, i)});
      break;
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT16:
      std::printf("%u", unsigned{got<std::uint16_t>(bytes, i)});
      break;
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT16:
      std::printf("%d", int{got<std::int16_t>(bytes, i)});
      break;
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT32:
      std::printf("%" PRIu32, got<std::uint32_t>(bytes, i));
      break;
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32:
      std::printf("%" PRId32, got<std::int32_t>(bytes, i));
      break;
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT64:
      std::printf("%" PRIu64, got<std::uint64_t>(bytes, i));
      break;
    default:
      std::printf("%" PRId64, got<std::int64_t>(bytes, i));
  }
}

void show(const Tensor& tensor, const Ort::Value& value, std::size_t index,
          const std::string& out) {
  const auto info = value.GetTensorTypeAndShapeInfo();
  const std::vector<std::int64_t> shape = info.GetShape();
  if (info.GetElementType() != tensor.type) fail("output " + tensor.name + " has another type");
  const std::size_t each = size_of(tensor.type), count = elements(shape, each);
  const char* bytes = static_cast<const char*>(value.GetTensorRawData());
  std::printf("%s %s\n", tensor.name.c_str(), text_of(shape).c_str());
  if (!out.empty()) {
    const auto path = std::filesystem::path(out) / ("output_" + std::to_string(index) + ".bin");
    std::ofstream file(path, std::ios::binary);
    file.write(bytes, static_cast<std::streamsize>(count * each));
    if (!file.flush()) fail(path.string() + " cannot be written");
    return;
  }
  const std::size_t row = shape.empty() || shape[0] <= 0
                              ? count
                              : count / static_cast<std::size_t>(shape[0]);
  for (std::size_t i = 0; i < count; ++i) {
    print_value(tensor.type, bytes, i);
    std::putchar(row && (i + 1) % row == 0 ? '\n' : ' ');
  }
}

void run(const Arguments& arguments) {
  std::map<std::string, std::vector<char>> files;
  for (const File& file : kFiles) files[file.name] = read_checked(arguments.bundle, file);

  const OrtApiBase* base = OrtGetApiBase();
  if (!base->GetApi(ORT_API_VERSION)) {
    fail(std::string("this is ONNX Runtime ") + base->GetVersionString() +
         ", older than the headers that the program was built with");
  }
  Ort::InitApi();
  Ort::Env environment(ORT_LOGGING_LEVEL_ERROR, "edgekd");
  Ort::SessionOptions options;
  options.SetLogSeverityLevel(ORT_LOGGING_LEVEL_ERROR);
  if (arguments.threads > 0) options.SetIntraOpNumThreads(static_cast<int>(arguments.threads));
  if (kAsWritten) options.AddConfigEntry("session.disable_quant_qdq", "1");
  const std::vector<char>& model = files.at(kModel);
  Ort::Session session(environment, model.data(), model.size(), options);

  const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
  Numbers numbers(static_cast<std::uint64_t>(arguments.seed));
  std::vector<std::vector<char>> buffers;
  std::vector<std::vector<std::int64_t>> shapes;
  std::vector<Ort::Value> values;
  std::vector<const char*> input_names, output_names;
  for (const Tensor& tensor : kInputs) {
    const auto file = arguments.inputs.find(tensor.name);
    const bool given = file != arguments.inputs.end();
    std::vector<char> bytes;
    if (given) bytes = read_file(file->second, file->second);
    shapes.push_back(shape_of(tensor, arguments, bytes.size()));
    const std::size_t each = size_of(tensor.type), count = elements(shapes.back(), each);
    if (!given) bytes = made(tensor, count, numbers);
    if (bytes.size() != count * each) {
      fail(file->second + " has " + std::to_string(bytes.size()) + " bytes, which is no input " +
           tensor.name + " of shape " + text_of(tensor.shape) + " with " + std::to_string(each) +
           " bytes a number");
    }
    buffers.push_back(std::move(bytes));
    values.push_back(Ort::Value::CreateTensor(memory, buffers.back().data(), buffers.back().size(),
                                              shapes.back().data(), shapes.back().size(),
                                              tensor.type));
    input_names.push_back(tensor.name.c_str());
  }
  for (const Tensor& tensor : kOutputs) output_names.push_back(tensor.name.c_str());

  if (!arguments.out.empty()) std::filesystem::create_directories(arguments.out);
  Ort::RunOptions run_options;
  run_options.SetRunLogSeverityLevel(ORT_LOGGING_LEVEL_FATAL);  // a failed run throws
  const std::vector<Ort::Value> outputs =
      session.Run(run_options, input_names.data(), values.data(), values.size(),
                  output_names.data(), output_names.size());
  for (std::size_t i = 0; i < outputs.size(); ++i) {
    show(kOutputs[i], outputs[i], i, arguments.out);
  }
}

}  // namespace

int main(int count, char** words) {
  try {
    run(parse(count, words));
    return 0;
  } catch (const std::bad_alloc&) {
    std::fputs("error: there is not enough memory for these shapes\n", stderr);
    return 2;
  } catch (const std::exception& error) {  // Ort::Exception is one; its text may have many lines
    std::string line = error.what();
    for (char& c : line) {
      if (c == '\n' || c == '\r') c = ' ';
    }
    std::fprintf(stderr, "error: %s\n", line.c_str());
    return 2;
  }
}
