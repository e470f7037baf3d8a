"""Networks: timm backbones, the head that maps their features into the ball, and the two joined."""
