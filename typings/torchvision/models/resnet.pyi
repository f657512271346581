from torch import nn

class Bottleneck(nn.Module):
    bn3: nn.BatchNorm2d
