#pragma once

/// Everything for the CPU.

#include <mistral/checkpoint/load.hpp>
#include <mistral/device/cpu/cpu.hpp>
#include <mistral/generate/session.hpp>
#include <mistral/generate/text_generation.hpp>
#include <mistral/model/mistral_model.hpp>
#include <mistral/text/chat.hpp>
#include <mistral/text/detokenizer.hpp>
#include <mistral/text/tokenizer.hpp>
#include <mistral/version.hpp>
