"""The text of a config is mmengine's, and made once."""

from unittest import mock

import mmengine.config.config as module
from mmengine.config import Config

import mmdet_seg  # noqa: F401
from mmdet_seg.compat import config_text


def test_a_text_is_laid_out_once_and_another_one_anew():
    calls = []

    def lay_out(text, style_config, verify=False):
        calls.append(text)
        return text.upper(), True

    with mock.patch.object(module, 'FormatCode', lay_out):
        config_text.patch(module)
        config_text.patch(module)
        cfg = Config(dict(a=1))
        first = cfg.pretty_text
        assert cfg.pretty_text == first == 'A=1'
        cfg.a = 2
        assert cfg.pretty_text == 'A=2'
    assert calls == ['a=1', 'a=2']


def test_it_is_in_place_and_says_what_yapf_says():
    cfg = Config(dict(model=dict(type='X', layers=list(range(40)))))
    before = module.FormatCode.remembered.cache_info().hits
    text = cfg.pretty_text
    assert cfg.pretty_text == text
    assert module.FormatCode.remembered.cache_info().hits == before + 1
    assert eval(text.split('=', 1)[1]) == dict(type='X', layers=list(range(40)))
