"""Text and instructions are inverse; shorthands, symbols and directives mean what they say."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings

from isa.assembly.assembler import assemble, read_instruction
from isa.assembly.text import format_instruction
from isa.encoding import decode_all
from isa.instructions.dma import Load, OnChip
from isa.instructions.matrix import ArrayGemm, Conv
from isa.instructions.vector import Pool, Pooling, VectorMove
from isa.spec import Instruction
from isa.support.diagnostics import AssemblyError
from tests.strategies import instructions, often

HALT = "\nhalt\n"


def assembled(text: str) -> list[Instruction]:
    """The instructions of a text that need not be legal anywhere: a section file stops validation."""
    return list(assemble(text).program.instructions)


@given(instructions())
@settings(max_examples=often(100))
def test_canonical_text_gives_the_instruction_back(instr: Instruction) -> None:
    assert read_instruction(format_instruction(instr)) == instr


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ld spm 64, R2 + 128, n=256", Load(space=OnChip.SPM, loc=64, region=2, dram=128, n0=256)),
        ("ld prm 0, R5, n=16", Load(space=OnChip.PRM, region=5, n0=16)),
        ("vmov 512 <- 0, n=256", VectorMove(dst=512, n0=256)),
        (
            "vpool max out=2048, inp=0, 4x4x4 k=2x2 s=2x2 ih=8 iw=8 ips=4 irs=32 ops=4 ors=16",
            Pooling(fn=Pool.MAX, out=2048, oh=4, ow=4, c=4, kh=2, kw=2, sh=2, sw=2, ih=8, iw=8, ips=4, irs=32,
                    ops=4, ors=16),
        ),
        ("conv wgt=8 4x(1+1), 3->16, k=1x1 ips=3 irs=6 ih=4 iw=2 inp=512 zx=-128",
         Conv(wgt=8, oh=4, ow=2, cin=3, cout=16, ips=3, irs=6, ih=4, iw=2, inp=512, zx=-128)),
        ("gemm b=64, 1x8x32 ap=8 bp=32", ArrayGemm(b=64, m=1, k=8, n=32, ap=8, bp=32)),
    ],
)  # fmt: skip
def test_shorthands_stand_for_operands(text: str, expected: Instruction) -> None:
    regions = ".region 2 4096\n.section .params\n.int 1,2,3,4\n.section .text\n"
    assert assembled(regions + text + HALT)[0] == expected


def test_symbols_may_be_used_before_their_line() -> None:
    first, *_ = assembled("vmov base+8 <- 0, n=4\n.equ base 2*(16+4)\nhalt")
    assert first == VectorMove(dst=48, n0=4)


def test_semaphores_are_numbered_in_order_of_declaration() -> None:
    text = (
        ".sem ready LD->VX, free VX->LD\n.region 2 64\n"
        "ld spm 0, R2, n=8 signal(ready)\nvmov 64 <- 0, n=8 wait(ready)\nhalt"
    )
    load, move, _ = assembled(text)
    assert load.signals == (0,)
    assert move.waits == (0,)


def test_op_directive_sets_the_debug_map() -> None:
    program = assemble('.op 3 "conv1" "relu1"\nvmov 64 <- 0, n=8\nvmov 96 <- 0, n=8\nhalt').program
    row = program.row_of(1)
    assert row is not None
    assert (row.op, row.first, row.count) == (3, 0, 3)
    assert program.operators.ops[0].nodes == ("conv1", "relu1")


def test_repetitions_count_from_0_and_may_be_nested() -> None:
    text = (
        ".equ base 64\n.rep t, 2\n.rep u, 1+2\n  vmov base+8*(3*t+u) <- 0, n=4 ; copy\n.endrep\nnop\n.endrep\n"
        ".rep 0\n bla bla\n.endrep\n.rep 2\nnop\n.endrep\nhalt"
    )
    instrs = assembled(text)
    assert [i.mnemonic for i in instrs] == [*["vmov"] * 3, "nop", *["vmov"] * 3, "nop", "nop", "nop", "halt"]
    assert [getattr(i, "dst", None) for i in instrs if i.mnemonic == "vmov"] == [64 + 8 * n for n in range(6)]


def test_includes_are_read_in_place_relative_to_their_file(tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "a.inc").write_text('.include "b.inc"\nvmov place <- 0, n=4\n')
    (tmp_path / "parts" / "b.inc").write_text(".equ place 96\n")
    program = assemble('.include "parts/a.inc"\nhalt', "main.x1s", tmp_path).program
    assert program.instructions[0] == VectorMove(dst=96, n0=4)


def test_mistakes_in_repetitions_and_includes_name_their_own_line(
    tmp_path: Path, golden: Callable[[str, str], None]
) -> None:
    (tmp_path / "self.inc").write_text('nop\n.include "self.inc"\n')
    (tmp_path / "wrong.inc").write_text("nop\nfrob 3\n")
    text = (
        '.include "wrong.inc"\n.include "../outside.inc"\n.include "none.inc"\n.include "self.inc"\n.rep 3\nbla\n'
        ".endrep\n.rep i, 2\n.rep i, 2\nnop\n.endrep\n.endrep\n.endrep\n.rep -1\n.endrep\nx: .rep 2\n.endrep\n"
        ".rep 1\nvmov i <- 0, n=4\n.endrep\n.rep 99999999\n.endrep\nhalt\n.rep 2\nnop\n"
    )
    with pytest.raises(AssemblyError) as refused:
        assemble(text, "main.x1s", tmp_path)
    golden("errors/expansion.txt", str(refused.value) + "\n")


@pytest.mark.parametrize(
    "text",
    [
        ".rep i, 262144\n.rep j, 262144\n.endrep\n.endrep\nhalt",
        "".join(f".rep {10**5}\n" for _ in range(5)) + "nop\n" + ".endrep\n" * 5,
        ".rep 2\n" * 40 + ".endrep\n" * 40,
        "vmov dst=" + "+".join(["1"] * 5000) + ", n=1\nhalt",
        "bla\n" * 5000,
        "vmov dst=a{0}, n=1\n" * 300,
        ".equ " + "a" * 100_000 + " 1\nvmov dst=" + "a" * 99_999 + "b\nhalt",
    ],
)
def test_texts_that_would_grow_without_bound_are_given_up(text: str) -> None:
    with pytest.raises(AssemblyError):
        assemble(text)


def test_names_that_hold_line_ends_stay_in_their_comment() -> None:
    from isa.assembly.disassembler import disassemble

    program = assemble(
        '.region 3 8\n.op 0 "a\u2028b\x1b[31m"\nldf spm 0, n=8 signal(0)\nst spm 0, R3, n=8 wait(0)\nhalt'
    ).program
    text = disassemble(program).text
    assert "\\u2028b\\x1b[31m" in text
    assert assemble(text).program.instructions == program.instructions


MISTAKES = """\
.target edge3
  ld spm foo, R0, n=3
  conv k=3 q=4
  vmov src=1 zz
  bla
  conv oh=4000
  conv ,,
  vpool mux
  nop -
  vmov src=1, src=2
  conv wgt=12
  vew oh=3
  .byte 3000
  .sem a QX->VX
  .equ big 99999999999 * 99999999999
  .tensor in x float32 [1,4] R2
label: label2: nop
  wait.ld waits(3)
  halt wait(1,1)
  .incbin "../outside.bin"
  st spm 0, R1, n=9999999
"""


def test_every_mistake_of_a_text_is_reported_with_its_place(golden: Callable[[str, str], None]) -> None:
    with pytest.raises(AssemblyError) as refused:
        assemble(MISTAKES, "bad.x1s")
    golden("errors/assembly.txt", str(refused.value) + "\n")


DECLARATIONS = """\
.target edge32 "mx.rows=0" "foo.bar=1"
.target tiny8
.equ R2 7
.equ bad nope+1
.equ worse bad+1
.buf big spm 0 99999999
.buf none spm 0 0
.bogus 3
.sem {sems}
.region 1 99999999999
.section .params
.record 1, nan
.record 1, 1e400
.record 1, -0x1p-3
.record {nines}, 0x1p-3
.byte \u0663
.section .text
.tensor in x float99 [1, 8] R2
.tensor in x int8 [1, 8] R2
.tensor in x int8 [1, 8] R2+16
.tensor in y int8 [1, 8] R2+4
.tensor out y int8 [1, 8] R0
  ld spm worse, R2 - 1, n=8
  ld spm 0, R2 - 1, n=8
  ld spm 0, R2, n={nines}
  halt
  nop
"""


def test_declarations_that_do_not_go_together_are_reported_with_their_place(
    golden: Callable[[str, str], None],
) -> None:
    text = DECLARATIONS.format(sems=", ".join(f"s{i}" for i in range(33)), nines="9" * 200)
    with pytest.raises(AssemblyError) as refused:
        assemble(text, "bad.x1s")
    golden("errors/declarations.txt", str(refused.value) + "\n")


def test_a_text_takes_its_target_from_a_file_beside_it(tmp_path: Path) -> None:
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "mine.toml").write_text('[target]\nbase = "tiny8"\n[dram]\nbytes_per_cycle = 3\n')
    assert assemble(".target mine.toml\nhalt", "m.x1s", folder).program.target.dram.bytes_per_cycle == 3
    (folder / "m.x1s").write_text(".target bad.toml\nhalt")
    (folder / "bad.toml").write_text("x = \n")
    (tmp_path / "outside.toml").write_text('[target]\nbase = "tiny8"\n')
    (folder / "link.toml").symlink_to(tmp_path / "outside.toml")
    for name, text in (
        ("bad", "m.x1s:1:9: error: bad.toml: not a TOML file"),
        ("link", "outside the folder"),
    ):
        with pytest.raises(AssemblyError, match=re.escape(text)):
            assemble(f".target {name}.toml\nhalt", "m.x1s", folder)


def test_files_that_are_larger_than_the_memory_are_not_read(tmp_path: Path) -> None:
    with (tmp_path / "huge.bin").open("wb") as file:
        file.truncate(1 << 36)
    text = '.target tiny8\n.section .weights\n.incbin "huge.bin"\n.section .text\nhalt'
    with pytest.raises(AssemblyError, match="the sections hold 68719476736 bytes"):
        assemble(text, "m.x1s", tmp_path)
    with (tmp_path / "huge.bin").open("wb") as file:
        file.truncate(1 << 27)
    again = ".target tiny8\n.section .weights\n.rep 9\n" + '.incbin "huge.bin"\n.endrep\n.section .text\nhalt'
    with pytest.raises(AssemblyError, match="allowed: at most"):
        assemble(again.replace("tiny8", 'tiny8 "dram.size=200000000"'), "m.x1s", tmp_path)


def test_of_a_very_long_line_the_part_around_the_mistake_is_shown() -> None:
    with pytest.raises(AssemblyError) as refused:
        assemble("vmov " + "dst=1, " * 5000 + "frob=2, " + "dst=1, " * 5000 + "n=1\nhalt")
    _, line, caret = str(refused.value).split("\n")[:3]
    assert len(line) < 200
    assert line[caret.index("^") :].startswith("dst")


def test_illegal_instructions_are_reported_at_their_line(golden: Callable[[str, str], None]) -> None:
    text = ".target tiny8\nvmov src=16380, dst=0, n0=8\nld spm 0, R2, n=8\nconv pack=1 ips=3\nhalt\n"
    with pytest.raises(AssemblyError) as refused:
        assemble(text, "illegal.x1s")
    golden("errors/illegal.txt", str(refused.value) + "\n")


def test_numbers_may_begin_with_zeros() -> None:
    assert assembled("vmov dst=0064, n0=0x0004\nhalt")[0] == VectorMove(dst=64, n0=4)


def test_text_alone_stands_for_its_data_by_their_size() -> None:
    from isa.assembly.disassembler import disassemble

    data = ".region 2 64\n.section .weights\n.byte 1,2,3,4\n.section .params\n.int 1,2\n.section .text\n"
    program = assemble(f"{data}ld spm 0, R0, n=4\nld prm 0, R5, n=8\nhalt").program
    again = assemble(disassemble(program).text).program
    assert again.instructions == program.instructions
    assert again.region_sizes() == program.region_sizes()


def test_text_alone_gives_the_words_of_a_program_back() -> None:
    from isa.assembly.disassembler import disassemble
    from isa.encoding import encode_all

    program = assemble(
        ".region 2 64\n.region 3 64\nld spm 0, R2, n=8 signal(1)\nst spm 0, R3, n=8 wait(1)\nhalt"
    ).program
    again = assemble(disassemble(program).text).program
    assert encode_all(again.instructions) == encode_all(program.instructions)
    assert decode_all(encode_all(again.instructions))[0] == list(program.instructions)
