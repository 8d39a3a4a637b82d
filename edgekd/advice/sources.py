"""What advice is taken from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Source:
    """A paper, with its arXiv number, or a table of edgekd's own, with the page that shows it."""

    title: str
    where: str
    kind: Literal["paper", "benchmark"] = "paper"

    def __str__(self) -> str:
        return f"{self.title}, {'arXiv ' if self.kind == 'paper' else ''}{self.where}"


HINTON = Source("Hinton et al. 2015, Distilling the Knowledge in a Neural Network", "1503.02531")
FITNETS = Source("Romero et al., ICLR 2015, FitNets", "1412.6550")
GUO = Source("Guo et al., ICML 2017, On Calibration of Modern Neural Networks", "1706.04599")
NOISY = Source("Li et al., ICCV 2017, Learning from Noisy Labels with Distillation", "1703.02391")
REGRESSION = Source(
    "Saputra et al., ICCV 2019, Distilling Knowledge from a Deep Pose Regressor Network",
    "1908.00858",
)
BORN_AGAIN = Source("Furlanello et al., ICML 2018, Born-Again Neural Networks", "1805.04770")
EFFICACY = Source(
    "Cho and Hariharan, ICCV 2019, On the Efficacy of Knowledge Distillation", "1910.01348"
)
ASSISTANT = Source(
    "Mirzadeh et al., AAAI 2020, Improved Knowledge Distillation via Teacher Assistant",
    "1902.03393",
)
REVISITING = Source(
    "Yuan et al., CVPR 2020, Revisiting Knowledge Distillation via Label Smoothing Regularization",
    "1909.11723",
)
MINILM = Source("Wang et al., Findings of ACL 2021, MiniLMv2", "2012.15828")
DEIT = Source(
    "Touvron et al., ICML 2021, Training Data-Efficient Image Transformers and Distillation "
    "through Attention",
    "2012.12877",
)
STATISTICAL = Source(
    "Menon et al., ICML 2021, A Statistical Perspective on Distillation", "2005.10419"
)
CHANNEL_WISE = Source(
    "Shu et al., ICCV 2021, Channel-wise Knowledge Distillation for Dense Prediction", "2011.13256"
)
CONFIDENT = Source("Northcutt et al., JAIR 2021, Confident Learning", "1911.00068")
SSLD = Source("Cui et al. 2021, Beyond Self-Supervision", "2103.05959")
GUIDANCE = Source(
    "Borup and Andersen, NeurIPS 2021, Even your Teacher Needs Guidance", "2102.13088"
)
PATIENT = Source(
    "Beyer et al., CVPR 2022, Knowledge Distillation: A Good Teacher is Patient and Consistent",
    "2106.05237",
)
ONE_FOR_ALL = Source("Hao et al., NeurIPS 2023, One-for-All", "2310.19444")
STANDARDIZATION = Source(
    "Sun et al., CVPR 2024, Logit Standardization in Knowledge Distillation", "2403.01427"
)
SCALE_KD = Source("Fan et al., NeurIPS 2024, ScaleKD", "2411.06786")
FEW_CLASSES = Source(
    "Loo et al. 2024, Linear Projections of Teacher Embeddings for Few-Class Distillation",
    "2409.20449",
)
KORNBLITH = Source(
    "Kornblith et al., ICML 2019, Similarity of Neural Network Representations Revisited",
    "1905.00414",
)
BENCHMARK = Source("edgekd's own benchmark of losses", "benchmarks.md", "benchmark")
